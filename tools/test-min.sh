#!/usr/bin/env bash
# Run the Python tests against the wheel with the oldest supported numpy and pillow.
# Called by `make test-min`, which builds the wheel first. The interpreter is that of tools/oldest-python.sh (3.11 also
# has wheels of these versions).
set -euo pipefail
cd "$(dirname "$0")/.."

"$(bash tools/oldest-python.sh)" -m venv --clear .venv-min
if uv --version >/dev/null 2>&1; then
  install=(uv pip install --quiet --python .venv-min/bin/python)
else
  install=(.venv-min/bin/python -m pip install --quiet)
fi
wheel=$(echo "$PWD"/dist/*.whl)
"${install[@]}" "quasar-rt[test] @ file://$wheel" 'numpy<1.24' \
  'pillow<9.3; python_version < "3.11"' 'pillow<9.4; python_version >= "3.11"'
.venv-min/bin/python -c '
import platform, numpy, PIL
print(f"Python {platform.python_version()}, numpy {numpy.__version__}, pillow {PIL.__version__}")'
# The package comes from site-packages, and so does the command line that tests start.
unset VIRTUAL_ENV
export PATH="$PWD/.venv-min/bin:$PATH"
# What depends on neither numpy nor pillow is left to `make test`.
python -m pytest -n "${JOBS:-2}" --maxprocesses 8 --dist worksteal tests/python \
  --ignore tests/python/test_kernel_cost.py --ignore tests/python/test_search_page.py
