#!/usr/bin/env bash
# Run the models of rust/loom and append a dated line for each to docs/logs/loom.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
log=docs/logs/loom.md

[ -f "$log" ] || printf '# Loom log\n\nOne line for each model and run of `make loom`.\n\n| date | commit | model | interleavings | bound | seconds |\n|---|---|---|---|---|---|\n' >"$log"
output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo test --release --manifest-path rust/loom/Cargo.toml -- --nocapture --test-threads=1 2>&1 | tee "$output"
sed -n 's/.*loom: \(.*\): \([0-9]*\) interleavings (\(.*\)) in \(.*\) s$/\1|\2|\3|\4/p' "$output" \
  | while IFS='|' read -r model runs bound seconds; do
    echo "| $(date -u +%F) | $(git describe --always --dirty) | $model | $runs | $bound | $seconds |" >>"$log"
  done
tail -n "$(grep -c 'interleavings (' "$output")" "$log"
