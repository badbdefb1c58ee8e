# shellcheck shell=sh disable=SC2154  # ami, bundle and fail are provision.sh's
# The sidecar and clearml-agent in one virtual environment, every file checked against the hashes in the lock.
prefix=/opt/scaler-sidecar
install -d -m 0755 "$prefix"
python3 -m venv --clear "$prefix/venv"
install_locked() {
  "$prefix/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --require-hashes "$@"
}
install_locked --only-binary :all: --requirement "$ami/build-requirements.lock"
# etcd3 is published as source only; with no isolation its build uses the locked setuptools, not the newest of the day.
install_locked --no-build-isolation --only-binary :all: --no-binary etcd3 --requirement "$ami/requirements.lock"
# The wheel's hash was checked with the bundle's.
"$prefix/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-index --no-deps "$bundle"/*.whl
# The lock may be older than the package's dependencies.
"$prefix/venv/bin/python" -m pip check --disable-pip-version-check ||
  fail "The lock lacks what the package needs: run make ami-lock and bake again."
# Compiled here: a node's user can't, and would pay for it at each start.
"$prefix/venv/bin/python" -m compileall -q -j 0 "$prefix/venv/lib" >/dev/null || true  # some packages ship templates that are no Python
ln -sf "$prefix/venv/bin/scaler-sidecar" /usr/local/bin/scaler-sidecar

version_of() { "$prefix/venv/bin/python" -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$1"; }
sidecar_version=$(version_of clearml-scaler-sidecar)
agent_version=$(version_of clearml-agent)
[ "${SCALER_EXPECT_SIDECAR:-$sidecar_version}" = "$sidecar_version" ] ||
  fail "The bundle has scaler-sidecar $sidecar_version where $SCALER_EXPECT_SIDECAR was to be baked; give packer the right sidecar_version."
[ "${SCALER_EXPECT_AGENT:-$agent_version}" = "$agent_version" ] ||
  fail "The lock has clearml-agent $agent_version where $SCALER_EXPECT_AGENT was to be baked; run make ami-lock, or give packer the right agent_version."

install -d -m 0755 /etc/scaler-sidecar
cat >/etc/scaler-sidecar/image.env <<END
# What this image was made of.
SIDECAR_VERSION=$sidecar_version
AGENT_VERSION=$agent_version
VARIANT=$SCALER_VARIANT
SOURCE_AMI=${SCALER_SOURCE_AMI:-}
OS=$ID-$VERSION_ID
END
"$prefix/venv/bin/python" -m pip freeze --disable-pip-version-check >"$prefix/packages.txt"
