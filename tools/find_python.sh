#!/usr/bin/env bash
# Prints the first Python of a version (find_python.sh 3.10): of PATH, of /usr/bin or of pyenv. Fails where there is none.
set -euo pipefail
for candidate in "python$1" "/usr/bin/python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
  found="$("$candidate" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)" || continue
  if [ "$found" = "$1" ]; then
    echo "$candidate"
    exit
  fi
done
exit 1
