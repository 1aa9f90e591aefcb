#!/usr/bin/env bash
# Run the Python tests of the extras and of the command line against the wheel with the lowest versions that
# pyproject.toml allows, those of [test], too. Called by `make test-floors`, which builds the wheel first. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=(host onnx hub webdataset datasets ray camera web test)
interpreter="${MIN_PYTHON:-$(bash tools/find_python.sh 3.10 || echo python)}"
mkdir -p build
uv pip compile --quiet --python "$interpreter" --resolution lowest-direct --only-binary :all: \
  "${extras[@]/#/--extra=}" --no-annotate --no-header pyproject.toml --output-file build/floors.txt
"$interpreter" -m venv --clear .venv-floors
uv pip install --quiet --python .venv-floors/bin/python --no-deps -r build/floors.txt dist/*.whl
echo "$("$interpreter" --version): $(grep -v ^nvidia build/floors.txt | xargs)"
# The package comes from site-packages, and so does the command line that tests start.
unset VIRTUAL_ENV
export PATH="$PWD/.venv-floors/bin:$PATH"
# The files with tests that need an extra. `make test-min` runs the others, with the oldest numpy and pillow.
modules='torch|timm|matplotlib|onnx|huggingface_hub|webdataset|datasets|ray|cv2|starlette|uvicorn'
mapfile -t tests < <(grep -lE "(importorskip|find_spec)\(\"($modules)" tests/python/test_*.py)
# Old packages warn of newer ones that they use.
python -m pytest -n "${JOBS:-2}" --maxprocesses 8 --dist worksteal -W default "${tests[@]}" "$@"
