#!/bin/sh
# Packs what a machine needs to become a node: this folder and the project's own wheel, with a list of their hashes.
#   ami/bundle.sh FILE.tar.gz      PYTHON names the interpreter that builds the wheel (default: python3)
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bundle=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

mkdir -p "$work/source" "$work/bundle" "$(dirname "$bundle")"
# A copy, so that the build leaves nothing in the source tree.
cp -R "$root/setup.cfg" "$root/pyproject.toml" "$root/scaler_plugin" "$work/source/"
for more in README.md LICENSE; do
  [ ! -e "$root/$more" ] || cp "$root/$more" "$work/source/"
done
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$work/bundle" "$work/source"
cp -R "$root/ami" "$work/bundle/ami"
(cd "$work/bundle" && find . -type f | LC_ALL=C sort | xargs sha256sum >"$work/SHA256SUMS")
mv "$work/SHA256SUMS" "$work/bundle/"
tar -C "$work/bundle" --owner=0 --group=0 --numeric-owner -czf "$bundle" .
sha256sum "$bundle"
