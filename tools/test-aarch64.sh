#!/bin/sh
# Builds the kernels for 64-bit Arm and runs their tests under qemu, on a core without the dot product and on one
# with it. Needs cargo, qemu-aarch64 (qemu-user) and aarch64-linux-gnu-gcc (gcc-aarch64-linux-gnu); aarch64.sh
# says where the compiler comes from. Arguments go to `cargo test`.
set -eu
cd "$(dirname "$0")/.."

for tool in cargo qemu-aarch64 aarch64-linux-gnu-gcc; do
    command -v "$tool" >/dev/null || {
        echo "test-aarch64: $tool is missing; on Debian: apt-get install qemu-user gcc-aarch64-linux-gnu" >&2
        exit 2
    }
done
. tools/aarch64.sh
# Emulation is slow; optimised code is much less of it.
export CARGO_PROFILE_DEV_OPT_LEVEL=3

# Doc tests are run by the host's own suite.
for cpu in cortex-a53 cortex-a76; do
    echo "test-aarch64: $cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu" \
        cargo test --target "$target" -p quasar-kernels --lib --tests "$@"
done
