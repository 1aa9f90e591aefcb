"""Writes config.hpp of a configuration. An equal file stays untouched, so that make builds nothing from it again.

Usage: config_header.py CONFIGURATION.toml OUT. The text comes from the base package (`make develop`).
"""

import sys
from pathlib import Path

try:
    from quasar_rt.hardware import Hardware
except ImportError as error:
    sys.exit(
        f"error: {sys.executable}: {error}; run `make develop`, and name its Python: PYTHON=.venv/bin/python"
    )

configuration, out = map(Path, sys.argv[1:])
text = Hardware.load(configuration).build_files["config.hpp"]
if not out.exists() or out.read_text(encoding="utf-8") != text:
    out.write_text(text, encoding="utf-8")
