#!/usr/bin/env bash
# Fuzz each target of rust/fuzz for a bounded time and append one dated line for each to docs/logs/fuzz.md.
# Usage: tools/fuzz.sh [SECONDS]     needs cargo-fuzz (cargo install cargo-fuzz); a stable toolchain will do.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-60}"
log=docs/logs/fuzz.md

if ! cargo fuzz --version >/dev/null 2>&1; then
  echo 'installing cargo-fuzz (cargo install cargo-fuzz)'
  cargo install --quiet --locked cargo-fuzz
fi
# libFuzzer's instrumentation needs unstable compiler flags; this lets the stable compiler take them.
export RUSTC_BOOTSTRAP=1

[ -f "$log" ] || printf '# Fuzzing log\n\nOne line for each target and run of `make fuzz`.\n\n| date | commit | target | seconds | runs | outcome |\n|---|---|---|---|---|---|\n' >"$log"
status=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for target in $(cargo fuzz list --fuzz-dir rust/fuzz); do
  outcome='no crash'
  cargo fuzz run --fuzz-dir rust/fuzz "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 2>&1 | tee "$output" \
    || { outcome='CRASH'; status=1; }
  runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$output" | tail -n 1)
  echo "| $(date -u +%F) | $(git rev-parse --short HEAD) | $target | $seconds | ${runs:-?} | $outcome |" >>"$log"
done
tail -n "$(cargo fuzz list --fuzz-dir rust/fuzz | wc -l)" "$log"
exit "$status"
