#!/usr/bin/env bash
# Builds a wheel into the folder that is named; further arguments are maturin's. Equal sources and tools give equal
# bytes: the native module holds no path of this machine, and the SBOM no id, time or path (tools/normalize_sbom.py).
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:?usage: tools/build-wheel.sh FOLDER [MATURIN-ARGUMENT ...]}"
shift

# The flags are rustc's for the target alone: with `--target`, `make develop` and this build keep to folders of their own.
flags="${RUSTFLAGS:-}"
separator=$'\x1f'
remap="--remap-path-prefix=$PWD=.$separator--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export CARGO_ENCODED_RUSTFLAGS="${flags:+${flags// /$separator}$separator}$remap"

new="$(mktemp -d)"
trap 'rm -rf "$new"' EXIT
case " $* " in *" --target "*) ;; *) set -- --target "$(rustc --print host-tuple)" "$@" ;; esac
maturin build --release --locked --quiet --out "$new" "$@"
python tools/normalize_sbom.py "$new"/*.whl
mkdir -p "$out"
mv "$new"/*.whl "$out"
