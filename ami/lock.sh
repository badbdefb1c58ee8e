#!/bin/sh
# Writes ami/*.lock anew: the newest versions that fit, each with the hashes of its files, for every Python from 3.10 on.
#   ami/lock.sh PYTHON     a Python in whose environment uv may be installed; `make ami-lock` gives it the project's
set -eu
cd "$(dirname "$0")/.."
python=$1
"$python" -m pip install --quiet 'uv>=0.5'

compile() {
  "$python" -m uv pip compile --quiet --universal --upgrade --generate-hashes --python-version 3.10 \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file "$@"
}
compile ami/requirements.lock setup.cfg ami/requirements.in
compile ami/build-requirements.lock --constraint ami/requirements.lock ami/build-requirements.in
