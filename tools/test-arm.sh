#!/bin/sh
# Builds the kernels for Arm and runs their tests under qemu: `sh tools/test-arm.sh aarch64` on cores without the dot
# product, with it, and with the matrix product, `sh tools/test-arm.sh armv7` on the core of a Zynq-7000. Further
# arguments go to `cargo test`. tools/arm.sh describes what it needs.
set -eu
cd "$(dirname "$0")/.."

name="${1:?usage: tools/test-arm.sh aarch64|armv7 [ARGUMENT OF CARGO TEST...]}"
shift
case "$name" in
aarch64) cpus="cortex-a53 cortex-a76 max" ;;
*) cpus=cortex-a9 ;;
esac

# Emulation is slow; optimised code is much less of it.
export CARGO_PROFILE_DEV_OPT_LEVEL=3

# Doc tests are run by the host's own suite.
for cpu in $cpus; do
    echo "test-arm: $cpu"
    # shellcheck disable=SC2016
    CPU="$cpu" sh tools/arm.sh "$name" \
        sh -c 'exec cargo test --target "$TARGET" -p quasar-kernels --lib --tests "$@"' cargo "$@"
done
