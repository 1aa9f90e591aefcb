#!/usr/bin/env bash
# Builds a wheel into the folder that is named; further arguments are maturin's. Equal sources and tools give equal
# bytes: the native module holds no path of this machine, and the SBOM no id, time or path (tools/normalize_sbom.py).
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:?usage: tools/build-wheel.sh FOLDER [MATURIN-ARGUMENT ...]}"
shift

new="$(mktemp -d)"
trap 'rm -rf "$new"' EXIT
CARGO_ENCODED_RUSTFLAGS="$(bash tools/rustflags.sh)" maturin build --release --locked --quiet --out "$new" "$@"
python tools/normalize_sbom.py "$new"/*.whl
mkdir -p "$out"
mv "$new"/*.whl "$out"
