#!/usr/bin/env bash
# Builds the wheel twice from copies of the tracked files, in different folders, with another CARGO_HOME, umask, locale
# and time zone, and compares the bytes. Arguments are those of tools/build-wheel.sh after the folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
unset CARGO_TARGET_DIR

copy() { # copy FOLDER UMASK
  (
    umask "$2"
    mkdir -p "$1"
    git ls-files -z | tar --create --null --files-from - | tar --extract --no-same-permissions --directory "$1"
  )
}

build() { # build FOLDER UMASK LOCALE ZONE CARGO_HOME [ARGUMENTS]
  local folder="$1"
  (
    umask "$2"
    export LC_ALL="$3" TZ="$4" CARGO_HOME="$5"
    bash "$folder/tools/build-wheel.sh" "$folder/dist" "${@:6}"
  )
}

one="$work/one"
other="$work/another/with a longer name"
# Both at once: nobody changes a file between them.
copy "$one" 022
copy "$other" 077
cargo="${CARGO_HOME:-$HOME/.cargo}"
mkdir "$work/cargo home"
ln -s "$cargo"/* "$work/cargo home"
build "$one" 022 C UTC "$cargo" "$@"
build "$other" 077 C.UTF-8 Asia/Tokyo "$work/cargo home" "$@"
wheels=("$one"/dist/*.whl "$other"/dist/*.whl)
if ! cmp "${wheels[@]}"; then
  python tools/check_wheel.py "${wheels[@]}" || true
  echo "test-reproducible: two builds of the same files differ" >&2
  exit 1
fi
echo "test-reproducible: two builds of $(basename "${wheels[0]}") are equal: sha256 $(sha256sum <"${wheels[0]}" | cut -d' ' -f1)"
