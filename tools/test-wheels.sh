#!/usr/bin/env bash
# Tests what tools/wheels.sh built, in the folder that is named: each wheel on its own, without this checkout's package.
# Further arguments choose some of them:
#
#   x86_64    this machine, in a new environment
#   sdist     the same, built by pip with Rust alone
#   aarch64   qemu as Cortex-A53 (no dot product), as Cortex-A76 (dot product) and as `max` (matrix product)
#   armv7l    qemu as Cortex-A9
#
# Each runs the demo, `quasar-rt verify`, tools/wheel_bits.py, whose digest must be the same everywhere, and the tests
# TESTS (golden vectors, preprocessing, camera frames, rows, subnet files); the emulated ones leave out tests that
# start processes (tools/emulated.py). With LOG=1 the runs are noted in docs/logs.md. Before, pip installs the emulated ones as
# docs/boards/pynq.md does.
#
# The emulated Pythons are Debian's, with its NumPy, Pillow, click, rich and hypothesis, unpacked without root into
# WHEELS_CACHE (target/wheels-debian). Needs qemu-aarch64 and qemu-arm (Debian: qemu-user), apt-get and dpkg.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="$(realpath "${1:?usage: tools/test-wheels.sh FOLDER [x86_64|sdist|aarch64|armv7l ...]}")"
shift
tests="${TESTS:-test_bit_exact test_rows test_preprocess test_frame test_subnet}"
cache="$(mkdir -p "${WHEELS_CACHE:-target/wheels-debian}" && realpath "${WHEELS_CACHE:-target/wheels-debian}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH PYTHONHOME QUASAR_TIER QUASAR_WEIGHTS QUASAR_BITSTREAM QUASAR_SIM_DIR

for tool in qemu-aarch64 qemu-arm apt-get dpkg; do
  command -v "$tool" >/dev/null || { echo "test-wheels: $tool is missing; on Debian: apt-get install qemu-user" >&2; exit 2; }
done

one() { # one PATTERN: the one file of that name in the folder
  local found=("$folder"/$1)
  [ ${#found[@]} = 1 ] && [ -e "${found[0]}" ] || { echo "test-wheels: not one file $folder/$1; run make wheels" >&2; exit 2; }
  echo "${found[0]}"
}

# check NAME TIER COMMAND...: the checks of one wheel, with the command that starts its Python.
digest=
pytest=()
check() {
  local name="$1" tier="$2" bits subnet passed
  shift 2
  echo "test-wheels: $name"
  "$@" -m quasar_rt demo | tail -2 | head -1
  for subnet in python/quasar_rt/data/*.qvit; do
    subnet="$(basename "$subnet" .qvit)"
    "$@" -m quasar_rt verify "$subnet" --images 1 >"$work/verify" || { cat "$work/verify" >&2; exit 1; }
    echo "$subnet: $(tail -1 "$work/verify")"
  done
  bits="$("$@" tools/wheel_bits.py)"
  echo "$bits"
  if [ -n "$tier" ] && [ "${bits%% *}" != "$tier" ]; then
    echo "test-wheels: $name runs on tier ${bits%% *}, not on $tier" >&2
    exit 1
  fi
  digest="${digest:-${bits##* }}"
  if [ "${bits##* }" != "$digest" ]; then
    echo "test-wheels: $name gives other logits than the first wheel" >&2
    exit 1
  fi
  # shellcheck disable=SC2086
  "$@" -m pytest -q -p no:cacheprovider "${pytest[@]}" $(printf 'tests/python/%s.py ' $tests) >"$work/tests" 2>&1 || { cat "$work/tests" >&2; exit 1; }
  tail -1 "$work/tests"
  passed="$(grep -o '[0-9]* passed' "$work/tests" | tail -1)"
  echo "$name: $passed, tier ${bits%% *}"
  [ -z "${LOG:-}" ] || python tools/lab/run_log.py test-wheels "$name" "$passed, tier ${bits%% *}"
}

# emulated ARCHITECTURE MACHINE TRIPLE EMULATOR: makes $work/MACHINE, which starts the emulated Python as CPU=NAME.
emulated() {
  local architecture="$1" machine="$2" triple="$3" emulator="$4" root="$cache/$1/root" site="$work/site-$2" version
  bash tools/debian_root.sh "$cache/$architecture" "$architecture" python3 python3-numpy python3-pil python3-click python3-rich python3-hypothesis
  version="$(basename "$(readlink "$root/usr/bin/python3")")"
  # pip compares the wheel's tags with the machine that it is for.
  python -m pip install --quiet --target "$site" --platform "manylinux2014_$machine" --platform "manylinux_2_17_$machine" \
    --python-version "${version#python}" --implementation cp --abi abi3 --abi none --only-binary=:all: --no-deps \
    "$(one "*_$machine.whl")" safetensors pytest pytest-benchmark pluggy iniconfig packaging pygments py-cpuinfo \
    exceptiongroup tomli typing-extensions
  cat >"$work/$machine" <<PYTHON
#!/bin/sh
exec $emulator -cpu "\$CPU" -L "$root" -E PYTHONHOME="$root/usr" \\
  -E LD_LIBRARY_PATH="$root/usr/lib/$triple/blas:$root/usr/lib/$triple/lapack" \\
  -E PYTHONPATH="\${SITE:-$site:$root/usr/lib/python3/dist-packages}" "$root/usr/bin/$version" "\$@"
PYTHON
  chmod +x "$work/$machine"
  cp tools/emulated.py "$site"
  pytest=(-p emulated)
}

# image MACHINE: installs the wheel as docs/boards/pynq.md does where the numpy and pillow of PYNQ's images 3.0 and 3.1
# seem to be. pip would fail if it had to compile one: the emulated Python starts no process.
image() {
  local machine="$1" image="$work/image-$1" package
  python -m pip install --quiet --target "$image" pip
  for package in numpy-1.21.5 Pillow-9.0.1; do
    mkdir "$image/$package.dist-info"
    printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' "${package%-*}" "${package#*-}" >"$image/$package.dist-info/METADATA"
  done
  SITE="$image" CPU=max "$work/$machine" -S -m pip list --format=freeze | grep -iE '^(numpy|pillow)=' >"$image/constraints.txt"
  SITE="$image" CPU=max "$work/$machine" -S -m pip install --only-binary :all: -c "$image/constraints.txt" --prefix "$image/new" \
    "$(one "*_$machine.whl")" >"$work/pip" 2>&1 || { cat "$work/pip" >&2; exit 1; }
  echo "pip, as on a PYNQ image: $(grep '^Successfully' "$work/pip")"
}

# native NAME FILE: makes an environment of that wheel or sdist.
native() {
  python -m venv --clear "$work/$1"
  "$work/$1/bin/python" -m pip install --quiet "$2" safetensors pytest pytest-benchmark hypothesis
}

[ $# -gt 0 ] || set -- x86_64 sdist aarch64 armv7l
for kind in "$@"; do
  case "$kind" in
  x86_64 | sdist)
    pattern="*_x86_64.whl"
    [ "$kind" = x86_64 ] || pattern="*.tar.gz"
    native "$kind" "$(one "$pattern")"
    pytest=()
    check "$kind, this machine" "" "$work/$kind/bin/python"
    ;;
  aarch64)
    emulated arm64 aarch64 aarch64-linux-gnu qemu-aarch64
    image aarch64
    for cpu in cortex-a53:neon cortex-a76:neondot max:neoni8mm; do
      check "aarch64, ${cpu%%:*} (qemu)" "${cpu##*:}" env "CPU=${cpu%%:*}" "$work/aarch64"
    done
    ;;
  armv7l)
    emulated armhf armv7l arm-linux-gnueabihf qemu-arm
    image armv7l
    check "armv7l, cortex-a9 (qemu)" neon env CPU=cortex-a9 "$work/armv7l"
    ;;
  *)
    echo "test-wheels: there is no $kind" >&2
    exit 2
    ;;
  esac
done
