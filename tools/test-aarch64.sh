#!/bin/sh
# Builds the kernels for 64-bit Arm and runs their tests under qemu, on a core without the dot product and on one
# with it. Needs cargo, qemu-aarch64 (qemu-user) and aarch64-linux-gnu-gcc (gcc-aarch64-linux-gnu). Arguments go to
# `cargo test`.
#
# The compiler is rustup's where it has the target aarch64-unknown-linux-gnu; otherwise, on an amd64 Debian,
# Debian's own (rustc-web), unpacked without root into AARCH64_CACHE (target/aarch64-rust).
set -eu
cd "$(dirname "$0")/.."

for tool in cargo qemu-aarch64 aarch64-linux-gnu-gcc; do
    command -v "$tool" >/dev/null || {
        echo "test-aarch64: $tool is missing; on Debian: apt-get install qemu-user gcc-aarch64-linux-gnu" >&2
        exit 2
    }
done

target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/aarch64"

if ! ls "$(rustc --print sysroot)/lib/rustlib/$target/lib/"libstd-*.rlib >/dev/null 2>&1; then
    cache="${AARCH64_CACHE:-target/aarch64-rust}"
    mkdir -p "$cache/state/lists/partial" "$cache/archives/partial"
    cache="$(cd "$cache" && pwd)"
    if [ ! -e "$cache/complete" ]; then
        # A private package index that knows both architectures; the system's is not touched.
        apt() {
            tool="$1"
            shift
            "$tool" -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o APT::Sandbox::User= \
                -o "Dir::State::Lists=$cache/state/lists" -o "Dir::Cache=$cache" "$@"
        }
        apt apt-get -qq update
        depends() {
            apt apt-cache depends "$1" | sed -n "s/^ *Depends: \\($2\\)\$/\\1/p"
        }
        std="$(depends libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')"
        llvm="$(depends "$std" 'libllvm[0-9]*')"
        (cd "$cache/archives" &&
            apt apt-get -qq download rustc-web libstd-rust-web-dev libstd-rust-web-dev:arm64 "$std" "$llvm")
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

# Emulation is slow; optimised code is much less of it.
export CARGO_PROFILE_DEV_OPT_LEVEL=3

# Doc tests are run by the host's own suite.
for cpu in cortex-a53 cortex-a76; do
    echo "test-aarch64: $cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu" \
        cargo test --target "$target" -p quasar-kernels --lib --tests "$@"
done
