#!/bin/sh
# Installs the object store that the tests of s3:// run against, into an environment of its own: its botocore
# and the packages of this project exclude each other. Usage: tests/s3/install.sh [FOLDER]
# (by default scratch/s3, or $S3_FOLDER). Exit 0 when it is there, 3 when it cannot be had: the tests then skip.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${S3_FOLDER:-$here/../../scratch/s3}}
uv=$here/../../.venv/bin/uv

missing() { echo "tests/s3: $1; the tests that need it skip" >&2; exit 3; }

[ -x "$uv" ] || missing "run make setup first"
mkdir -p "$folder"
if cmp -s "$here/requirements.txt" "$folder/installed.txt"; then
    echo "tests/s3: it is installed in $folder"
    exit 0
fi
echo "tests/s3: installing into $folder (180 MB, half a minute) ..."
"$uv" venv --quiet --clear --python "$here/../../.venv/bin/python" "$folder/env" || missing "no environment can be made"
"$uv" pip install --quiet --python "$folder/env/bin/python" --requirement "$here/requirements.txt" \
    || missing "the packages cannot be had"
cp "$here/requirements.txt" "$folder/installed.txt"
