#!/usr/bin/env bash
# Run the models of rust/loom and note each in docs/logs.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo test --release --manifest-path rust/loom/Cargo.toml -- --nocapture --test-threads=1 2>&1 | tee "$output"
sed -n 's/.*loom: \(.*\): \([0-9]* interleavings (.*) in .* s\)$/\1|\2/p' "$output" \
  | while IFS='|' read -r model result; do python3 tools/lab/run_log.py loom "$model" "$result"; done
