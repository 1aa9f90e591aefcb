#!/usr/bin/env bash
# Prints rustc's flags of a native module without paths of this machine, as CARGO_ENCODED_RUSTFLAGS takes them.
# `make develop` and tools/build-wheel.sh compile with the same ones, so that the second compiles little again.
set -euo pipefail
cd "$(dirname "$0")/.."
flags="${RUSTFLAGS:-}"
separator=$'\x1f'
remap="--remap-path-prefix=$PWD=.$separator--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
printf %s "${flags:+${flags// /$separator}$separator}$remap"
