#!/bin/sh
# Runs a command with cargo set up to build for Arm and to run what it builds under qemu:
#
#   sh tools/arm.sh aarch64|armv7 COMMAND...
#
# The command finds the target's name in TARGET, and the emulator's words but for `-cpu` in EMULATOR. Cargo's runner
# emulates the CPU that is named in CPU. Needs cargo, qemu-user, and the cross compiler (which links).
#
# The compiler is rustup's where it has the target; otherwise, on an amd64 Debian, Debian's own (rustc-web), unpacked
# without root into ARM_CACHE/ARCHITECTURE-rust (target/ARCHITECTURE-rust).
set -eu
cd "$(dirname "$0")/.."

name="$1"
shift
case "$name" in
aarch64)
    TARGET=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu emulator=qemu-aarch64 debian=arm64
    ;;
armv7)
    TARGET=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf emulator=qemu-arm debian=armhf
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

if ! ls "$(rustc --print sysroot)/lib/rustlib/$TARGET/lib/"libstd-*.rlib >/dev/null 2>&1; then
    cache="${ARM_CACHE:-target}/$name-rust"
    mkdir -p "$cache/state/lists/partial" "$cache/archives/partial"
    cache="$(cd "$cache" && pwd)"
    if [ ! -e "$cache/complete" ]; then
        # A private package index that knows both architectures; the system's is not touched.
        apt() {
            tool="$1"
            shift
            "$tool" -o APT::Architectures::=amd64 -o "APT::Architectures::=$debian" -o APT::Sandbox::User= \
                -o "Dir::State::Lists=$cache/state/lists" -o "Dir::Cache=$cache" "$@"
        }
        # An index that is missing is an error of the download only if a package was in it.
        apt apt-get -qq update || true
        depends() {
            apt apt-cache depends "$1" | sed -n "s/^ *Depends: \\($2\\)\$/\\1/p"
        }
        std="$(depends libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')"
        llvm="$(depends "$std" 'libllvm[0-9]*')"
        (cd "$cache/archives" &&
            apt apt-get -qq download rustc-web libstd-rust-web-dev "libstd-rust-web-dev:$debian" "$std" "$llvm")
        for package in "$cache"/archives/*.deb; do
            dpkg -x "$package" "$cache/root"
        done
        touch "$cache/complete"
    fi
    export RUSTC="$cache/rustc" RUSTDOC="$cache/root/usr/bin/rustdoc"
    cat >"$RUSTC" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$cache/root/usr/lib/x86_64-linux-gnu" exec "$cache/root/usr/bin/rustc" "\$@"
WRAPPER
    chmod +x "$RUSTC"
fi

exec "$@"
