#!/usr/bin/env bash
# Run the models of rust/loom and note their run in docs/logs.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo test --release --manifest-path rust/loom/Cargo.toml -- --nocapture --test-threads=1 2>&1 | tee "$output"
# Their lines: "loom: MODEL: N interleavings (BOUND) in SECONDS s".
result=$(sed -n 's/.*loom: .*: \([0-9]*\) interleavings (.*) in \(.*\) s$/\1 \2/p' "$output" \
  | awk '{n += $1; s += $2} END {printf "%d interleavings in %.0f s|%d models", n, s, NR}')
python3 tools/lab/run_log.py loom "${result#*|}" "${result%|*}"
