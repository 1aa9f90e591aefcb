"""``python -m quasar_rt`` is the command ``quasar-rt``."""

from .cli import main

main()
