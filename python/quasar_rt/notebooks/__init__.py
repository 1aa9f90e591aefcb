"""Notebooks, as PYNQ delivers them: ``pynq get-notebooks -o quasar-rt`` copies this folder's ``.ipynb`` files.

The package names the folder in the entry point ``pynq.notebooks``. Elsewhere, open the files where they are.
"""
