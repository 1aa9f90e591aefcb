#!/usr/bin/env bash
# Builds what a release uploads, into the folder that is named: an sdist, and abi3 wheels for x86_64, 64-bit Arm (Zynq
# UltraScale+, Kria) and 32-bit Arm (Zynq-7000). Called by `make wheels`, which installs the tools (tools/release.txt).
#
# zig links against glibc 2.17, the oldest that Rust supports. rustup installs the targets; another Rust must have them.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:?usage: tools/wheels.sh FOLDER}"

targets=(x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf)
if command -v rustup >/dev/null; then
  rustup --quiet target add "${targets[@]}"
fi
for target in "${targets[@]}"; do
  if ! compgen -G "$(rustc --print sysroot)/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null; then
    echo "wheels: this Rust lacks the target $target; with rustup: rustup target add $target" >&2
    exit 1
  fi
done

rm -rf "$out"
maturin sdist --out "$out"
for target in "${targets[@]}"; do
  echo "Building the wheel for $target."
  bash tools/build-wheel.sh "$out" --zig --target "$target" --compatibility manylinux2014
done
python tools/check_wheel.py "$out"/*.whl "$out"/*.tar.gz
twine check --strict "$out"/*
