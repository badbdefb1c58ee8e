#!/bin/sh
# Makes a machine ready to be a node, from an unpacked bundle (ami/bundle.sh). Runs as root on Ubuntu 24.04, 22.04 and Debian 12.
#
#   provision.sh bake         for an image: everything that any pool may want, and nothing left of this machine's identity
#   provision.sh first-boot   on a stock image at its first boot: docker comes only if the pool turns out to want it
#
# From the environment:
#   SCALER_VARIANT=cpu|gpu             default cpu
#   SCALER_GPU_DRIVER=present|install  gpu: the source image has the NVIDIA driver (default), or it is to be installed
#   SCALER_NVIDIA_BRANCH=570-server    gpu, install, Ubuntu: the driver's branch, which may end in -open
#   SCALER_DOCKER_IMAGES="a b"         bake: docker images to pull ahead
#   SCALER_EXTRA_PACKAGES="a b"        further packages of the distribution
#   SCALER_EXPECT_SIDECAR, SCALER_EXPECT_AGENT   versions that must come out, or it fails
#   SCALER_SOURCE_AMI                  noted in /etc/scaler-sidecar/image.env
set -eu
bundle=$(cd "$(dirname "$0")/.." && pwd)
ami=$bundle/ami
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
: "${SCALER_VARIANT:=cpu}" "${SCALER_GPU_DRIVER:=present}" "${SCALER_DOCKER_IMAGES:=}" "${SCALER_EXTRA_PACKAGES:=}"

say() { echo "scaler-sidecar: $*"; }
fail() {
  echo "scaler-sidecar: $*" >&2
  exit 1
}

[ "$(id -u)" -eq 0 ] || fail "provision.sh must run as root."
case ${1:-} in
  bake | first-boot) mode=$1 ;;
  *) fail "Say what for: provision.sh bake, or provision.sh first-boot." ;;
esac
case $SCALER_VARIANT:$SCALER_GPU_DRIVER in
  cpu:* | gpu:present | gpu:install) ;;
  *) fail "SCALER_VARIANT must be cpu or gpu and SCALER_GPU_DRIVER present or install." ;;
esac
# shellcheck source=/dev/null
. /etc/os-release
case $ID:$VERSION_ID in
  ubuntu:24.04 | ubuntu:22.04 | debian:12) ;;
  *) fail "This is $ID $VERSION_ID; Ubuntu 24.04, Ubuntu 22.04 and Debian 12 are supported." ;;
esac
(cd "$bundle" && sha256sum --quiet --check SHA256SUMS) || fail "The bundle is not what was packed; make it again."

# Nothing starts while packages are installed, and nothing installed is started by its package.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT

step() {
  say "$1"
  # shellcheck source=/dev/null
  . "$ami/steps/$1.sh"
}
step no_upgrades
step packages
if [ "$mode" = bake ]; then
  step docker
fi
if [ "$SCALER_VARIANT" = gpu ]; then
  step gpu
fi
step program
step units
rm -f /usr/sbin/policy-rc.d
if [ "$mode" = bake ]; then
  step prepull
  step clean
else
  # The health gate installs docker with this if the pool runs its tasks in containers.
  install -m 755 "$ami/steps/docker.sh" /usr/lib/scaler-sidecar/install-docker
fi
say "ready"
