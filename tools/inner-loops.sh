#!/bin/sh
# Compiles the kernels for 64-bit Arm and models their inner loops (inner_loops.py, which gets the arguments).
# Needs cargo, aarch64-linux-gnu-gcc (gcc-aarch64-linux-gnu), llvm-mca (llvm) and python3.
set -eu
cd "$(dirname "$0")/.."

for tool in cargo aarch64-linux-gnu-gcc llvm-mca python3; do
    command -v "$tool" >/dev/null || {
        echo "inner-loops: $tool is missing; on Debian: apt-get install gcc-aarch64-linux-gnu llvm" >&2
        exit 2
    }
done
. tools/aarch64.sh
# Link-time optimisation would leave no assembly behind.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
output="$CARGO_TARGET_DIR/$target/release/deps"
rm -f "$output"/quasar_kernels-*.s
cargo rustc --quiet --release --target "$target" -p quasar-kernels --lib -- --emit asm
exec python3 tools/inner_loops.py "$output"/quasar_kernels-*.s "$@"
