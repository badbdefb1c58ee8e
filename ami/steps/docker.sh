#!/bin/sh
# Docker of the distribution. It starts when something first talks to it: a pool without containers does not pay for it.
# A step of provision.sh, and by itself /usr/lib/scaler-sidecar/install-docker on a stock image, before any agent starts.
set -eu
export DEBIAN_FRONTEND=noninteractive
# The settings before the package, which starts docker where nothing keeps it from that: a running docker takes no new bound on logs.
install -d -m 0755 /etc/docker
# The source image may have settings already, such as NVIDIA's runtime: they stay, and what is missing is added.
changed=$(
  python3 - /etc/docker/daemon.json <<'END'
import json, os, sys

path = sys.argv[1]
try:
    with open(path) as file:
        settings = json.loads(file.read().strip() or "{}")
    if not isinstance(settings, dict):
        raise ValueError("it is no object")
except FileNotFoundError:
    settings = {}
except ValueError as problem:
    sys.exit(f"scaler-sidecar: {path} of this image can't be read, and docker would not start with it: {problem}")
found = dict(settings)
settings["live-restore"] = True  # containers, which are tasks, outlive a crash of the daemon
if not settings.keys() & {"log-driver", "log-opts"}:
    settings |= {"log-driver": "local", "log-opts": {"max-size": "20m", "max-file": "2"}}  # a bound
if settings != found:
    with open(path + ".new", "w") as file:
        json.dump(settings, file, indent=2)
        file.write("\n")
    os.replace(path + ".new", path)
    print("yes")
END
)
if ! command -v dockerd >/dev/null; then  # AWS's deep-learning images bring Docker's own
  apt-get -q update
  apt-get -q -y --no-install-recommends install docker.io
elif [ -n "$changed" ] && [ -d /run/systemd/system ]; then
  # It may have started with the image's own settings. After the reload what runs in it outlives the restart.
  if systemctl --quiet is-active docker.service; then
    systemctl reload docker.service
  fi
  systemctl try-restart docker.service
fi
systemctl --quiet disable docker.service
systemctl --quiet enable docker.socket
