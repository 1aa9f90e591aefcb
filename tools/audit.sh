#!/usr/bin/env bash
# Looks up what the crates and the wheel depend on in the databases of known weaknesses: tools/audit.sh PYTHON, where
# PYTHON is that of an environment which holds the wheel alone. Called by `make audit`.
#
# Fails at a finding, and where something could not be looked up: a database that does not answer knows no weakness.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:?usage: tools/audit.sh PYTHON}"
#: A version with known weaknesses: the database must name them.
known_bad=pillow==9.2.0
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

look_up() { # look_up REQUIREMENTS: every package in it, with nothing left out
  pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement "$1"
}

failed=0
fail() {
  echo "audit: error: $1" >&2
  failed=1
}

echo "audit: cargo-deny, $(grep -c '^name = ' Cargo.lock) crates of Cargo.lock: weaknesses, licences, sources"
cargo deny check || fail "the crates have a finding, or could not be looked up (above)"

"$python" -m pip freeze --exclude quasar-rt >"$work/wheel"
count="$(wc -l <"$work/wheel")"
echo "audit: pip-audit, $count packages that the wheel needs:" $(cat "$work/wheel")
[ "$count" -gt 0 ] || fail "the environment of $python holds no dependency of the wheel"
look_up "$work/wheel" || fail "the wheel's dependencies have a finding, or could not be looked up (above)"
echo "$known_bad" >"$work/known-bad"
look_up "$work/known-bad" >"$work/answer" 2>&1 || true
grep -q '^Found [1-9]' "$work/answer" \
  || fail "the database does not know the weaknesses of $known_bad, so its silence about other packages means nothing"

[ "$failed" = 0 ] && echo "audit: everything was looked up, and nothing was found"
exit "$failed"
