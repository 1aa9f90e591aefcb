#!/bin/sh
# Runs a command with cargo set up to build for Arm and to run what it builds under qemu:
#
#   sh tools/arm.sh aarch64|armv7 COMMAND...
#
# The command finds the target's name in TARGET, and the emulator's words but for `-cpu` in EMULATOR. Cargo's runner
# emulates the CPU that is named in CPU. Needs cargo, qemu-user, and the cross compiler (which links). rustup installs
# the target; another Rust must have it.
set -eu
cd "$(dirname "$0")/.."

name="$1"
shift
case "$name" in
aarch64)
    TARGET=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu emulator=qemu-aarch64
    ;;
armv7)
    TARGET=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf emulator=qemu-arm
    ;;
*)
    echo "arm: there is no $name; use aarch64 or armv7" >&2
    exit 2
    ;;
esac
export TARGET EMULATOR="$emulator -L /usr/$gnu"

for tool in cargo "$emulator" "$gnu-gcc"; do
    command -v "$tool" >/dev/null || {
        echo "arm: $tool is missing; on Debian: apt-get install qemu-user gcc-$gnu" >&2
        exit 2
    }
done

variable="CARGO_TARGET_$(echo "$TARGET" | tr 'a-z-' 'A-Z_')"
export "${variable}_LINKER=$gnu-gcc"
export "${variable}_RUNNER=$emulator ${CPU:+-cpu $CPU }-L /usr/$gnu"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/$name"

if command -v rustup >/dev/null; then
    rustup --quiet target add "$TARGET"
fi

exec "$@"
