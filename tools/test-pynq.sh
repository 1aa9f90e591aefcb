#!/usr/bin/env bash
# Types docs/boards/pynq.md in environments like those of PYNQ's images, and tests the PYNQ transport on what it
# installs. Called by `make test-pynq`, which builds the wheel and the simulated accelerators first.
#
#   3.0.1           Ubuntu 22.04's Python 3.10, numpy, pillow and click, and pip 22.0.2; pynq 3.0.1. The images 3.1 have
#                   the same, but for pynq.
#   3.0.1 to 4.0.0  the same after an update of pynq
#   4.0.0           numpy and pillow of the image 4.0, in Python 3.12 where there is one; pynq 4.0.0
#
# The versions are those of sdbuild/packages/python_packages_*/requirements.txt in https://github.com/Xilinx/PYNQ, and of
# Ubuntu's packages that sdbuild/ubuntu/*/multistrap.config names. As there, the environment of PYNQ sees packages
# outside it, which pip cannot replace.
set -euo pipefail
cd "$(dirname "$0")/.."
export QUASAR_SIM_DIR="${QUASAR_SIM_DIR:-$PWD/build/sim}" PIP_DISABLE_PIP_VERSION_CHECK=1
unset VIRTUAL_ENV PYTHONPATH
wheel=$(echo "$PWD"/dist/*.whl)
PAGE_TEST=(tests/python/test_pynq_page.py --noconftest)

# install PYTHON ARGUMENT...: installs packages, with uv where it is there.
if uv --version >/dev/null 2>&1; then
  install() { uv pip install --quiet --python "$@"; }
else
  install() { "$1" -m pip install --quiet "${@:2}"; }
fi

# image NAME INTERPRETER PIP SYSTEM... -- PACKAGE...: makes the environment .venv-pynq/NAME/venv.
image() {
  image="$PWD/.venv-pynq/$1"
  python="$image/venv/bin/python"
  local interpreter="$2" pip="$3" system=()
  shift 3
  while [ "$1" != -- ]; do
    system+=("$1")
    shift
  done
  shift
  rm -rf "$image"
  "$interpreter" -m venv "$image/venv"
  install "$python" --no-deps --target "$image/dist-packages" "${system[@]}"
  echo "$image/dist-packages" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/system.pth"
  printf '%s\n' "${system[@]}" >"$image/constraints"
  install "$python" --constraint "$image/constraints" "$pip" pytest pytest-benchmark "$@"
}

# check TEST...: runs tests in the environment.
check() {
  echo "test-pynq: $("$python" -c '
import platform
from importlib.metadata import version
names = ("pynq", "numpy", "pillow")
print(f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names), sep=", ")')"
  # shellcheck disable=SC2086
  QUASAR_PYNQ_WHEEL="$wheel" "$image/venv/bin/pytest" "$@" -p no:cacheprovider ${PYTEST_ARGS:-}
}

if interpreter="$(bash tools/find_python.sh 3.10)"; then
  image 3.0.1 "$interpreter" pip==22.0.2 numpy==1.21.5 pillow==9.0.1 click==8.0.3 -- \
    pynq==3.0.1 pycparser==2.19 pydantic==1.9.1 nest-asyncio==1.5.5 ipython==8.4.0 setuptools==59.6.0
  check "${PAGE_TEST[@]}"
  check tests/python/test_pynq.py
  install "$python" --constraint "$image/constraints" pynq==4.0.0
  check tests/python/test_pynq.py
else
  echo 'test-pynq: pynq 3.0.1 is not tested: its image has Python 3.10, and there is none here'
fi
image 4.0.0 "$(bash tools/find_python.sh 3.12 || echo python)" pip numpy==1.26.4 pillow==12.3.0 -- pynq==4.0.0
check "${PAGE_TEST[@]}"
check tests/python/test_pynq.py
