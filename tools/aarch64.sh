# Sourced: a Rust toolchain that compiles for 64-bit Arm, in $target, $RUSTC and cargo's variables.
#
# The compiler is rustup's where it has the target aarch64-unknown-linux-gnu; otherwise, on an amd64 Debian,
# Debian's own (rustc-web), unpacked without root into AARCH64_CACHE (target/aarch64-rust).

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
