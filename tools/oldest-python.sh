#!/usr/bin/env bash
# Print the interpreter for tests with the lowest versions: MIN_PYTHON, else the first Python 3.10 found, else the venv's.
set -euo pipefail
runs_310() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; }

for candidate in "${MIN_PYTHON:-}" python3.10 /usr/bin/python3.10 "$HOME"/.pyenv/versions/3.10.*/bin/python; do
  if [ -n "$candidate" ] && { [ "$candidate" = "${MIN_PYTHON:-}" ] || runs_310 "$candidate"; }; then
    echo "$candidate"
    exit
  fi
done
echo python
