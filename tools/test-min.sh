#!/usr/bin/env bash
# Run the Python tests against the wheel with the oldest supported numpy and pillow, those of PYNQ's 3.x images.
# Called by `make test-min`, which builds the wheel first. The interpreter is MIN_PYTHON, else the first Python 3.10
# found, else the one of the venv: 3.11 gets the oldest numpy and pillow that have wheels for it.
set -euo pipefail
cd "$(dirname "$0")/.."

interpreter="${MIN_PYTHON:-$(bash tools/find_python.sh 3.10 || echo python)}"
"$interpreter" -m venv --clear .venv-min
if uv --version >/dev/null 2>&1; then
  install=(uv pip install --quiet --python .venv-min/bin/python)
else
  install=(.venv-min/bin/python -m pip install --quiet)
fi
oldest=('numpy==1.21.5; python_version < "3.11"' 'numpy<1.24; python_version >= "3.11"'
  'pillow==9.0.1; python_version < "3.11"' 'pillow<9.4; python_version >= "3.11"')
"${install[@]}" dist/*.whl "${oldest[@]}"
# [test] but for ONNX Runtime, which needs numpy 1.21.6.
mapfile -t extra < <(.venv-min/bin/python -c '
from importlib.metadata import requires
for line in requires("quasar-rt"):
    name, _, condition = line.partition(";")
    if "test" in condition and not name.startswith("onnxruntime"):
        print(name.strip())')
"${install[@]}" "${extra[@]}" "${oldest[@]}"
.venv-min/bin/python -c '
import platform, numpy, PIL
print(f"Python {platform.python_version()}, numpy {numpy.__version__}, pillow {PIL.__version__}")'
# The package comes from site-packages, and so does the command line that tests start.
unset VIRTUAL_ENV
export PATH="$PWD/.venv-min/bin:$PATH"
# What does not depend on the versions of numpy and pillow is left to `make test`; test_nsga2.py searches here.
left=(search_page search_boards search_quality search hardware simulated_time address_space memory release
  watch_attacks watch_page doctor build)
ignored=("${left[@]/#/--ignore=tests/python/test_}")
python -m pytest -n "$((${JOBS:-2} + 1))" --maxprocesses 8 --dist worksteal tests/python \
  "${ignored[@]/%/.py}"
