#!/bin/sh
# Installs the flag service that the tests of remote control run against, from whatever registry npm is set to.
# Usage: tests/unleash/install.sh [FOLDER]    (by default scratch/unleash, or $UNLEASH_FOLDER)
# Exit 0 when it is there, 3 when Node or the packages are not to be had: the tests then skip, and say so.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${UNLEASH_FOLDER:-$here/../../scratch/unleash}}

missing() { echo "tests/unleash: $1; the tests that need it skip" >&2; exit 3; }

command -v npm >/dev/null 2>&1 || missing "npm is not installed"
major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
[ "${major:-0}" -ge 20 ] || missing "Node 20 or later is needed, and this is ${major:-none}"

mkdir -p "$folder"
if cmp -s "$here/package.json" "$folder/installed.json"; then
    echo "tests/unleash: it is installed in $folder"
    exit 0
fi
echo "tests/unleash: installing into $folder (190 MB, a minute) ..."
cp "$here/package.json" "$folder/package.json"
# No scripts of the packages are run, and no lock file is kept: it would hold addresses of a registry.
npm install --prefix "$folder" --omit=dev --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error \
    || missing "npm cannot get the packages"
cp "$here/package.json" "$folder/installed.json"
