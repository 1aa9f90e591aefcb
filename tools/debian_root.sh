#!/usr/bin/env bash
# Unpacks packages of Debian for another architecture, and all that they need, into a folder, without root:
#
#   bash tools/debian_root.sh FOLDER ARCHITECTURE PACKAGE...
#
# FOLDER/root has the files; FOLDER/complete marks a folder that is whole and is left as it is. Needs apt-get and dpkg.
set -euo pipefail
place="${1:?usage: tools/debian_root.sh FOLDER ARCHITECTURE PACKAGE...}"
architecture="${2:?an architecture, as Debian names it}"
shift 2
[ ! -e "$place/complete" ] || exit 0
mkdir -p "$place/lists/partial" "$place/archives/partial" "$place/root"
place="$(realpath "$place")"
: >"$place/status"
# A private package index of that architecture; the system's is not touched.
options=(-o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o APT::Sandbox::User=
  -o "Dir::State::Lists=$place/lists" -o "Dir::State::status=$place/status" -o "Dir::Cache=$place"
  -o "Dir::Cache::archives=$place/archives" -o Debug::NoLocking=1)
# An index that is missing is an error of the installation only if a package was in it.
apt-get "${options[@]}" -qq update || true
apt-get "${options[@]}" -qq -y --download-only --no-install-recommends install "$@"
for package in "$place"/archives/*.deb; do
  dpkg -x "$package" "$place/root"
done
touch "$place/complete"
