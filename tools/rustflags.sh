#!/usr/bin/env bash
# Prints rustc's flags of a native module without paths of this machine, as CARGO_ENCODED_RUSTFLAGS takes them.
# `make develop` and tools/build-wheel.sh compile with the same ones, so that the second compiles little again.
cd "$(dirname "$0")/.." || exit
# shellcheck disable=SC2086 # RUSTFLAGS are words.
printf -v flags '%s\x1f' ${RUSTFLAGS:-} --remap-path-prefix={"$PWD=.","${CARGO_HOME:-$HOME/.cargo}=/cargo"}
printf %s "${flags%?}"
