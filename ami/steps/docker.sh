#!/bin/sh
# Docker of the distribution. It starts when something first talks to it: a pool without containers does not pay for it.
# A step of provision.sh, and by itself /usr/lib/scaler-sidecar/install-docker on a stock image.
set -eu
export DEBIAN_FRONTEND=noninteractive
if ! command -v dockerd >/dev/null; then  # AWS's deep-learning images bring Docker's own
  apt-get -q update
  apt-get -q -y --no-install-recommends install docker.io
fi
install -d -m 0755 /etc/docker
if [ ! -e /etc/docker/daemon.json ]; then
  # live-restore: containers, which are tasks, outlive a crash of the daemon. Logs have a bound.
  printf '%s\n' '{"live-restore": true, "log-driver": "local", "log-opts": {"max-size": "20m", "max-file": "2"}}' >/etc/docker/daemon.json
fi
systemctl --quiet disable docker.service
systemctl --quiet enable docker.socket
