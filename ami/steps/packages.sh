# shellcheck shell=sh
# Git and Python for tasks, the firewall's program, and the user that agents and tasks run as.
apt-get -q update
# shellcheck disable=SC2086  # a list of words
apt-get -q -y --no-install-recommends install \
  ca-certificates git openssh-client python3 python3-venv nftables procps $SCALER_EXTRA_PACKAGES

if ! getent passwd clearml >/dev/null; then
  useradd --system --user-group --home-dir /var/lib/clearml --shell /usr/sbin/nologin clearml
fi
install -d -m 0750 -o clearml -g clearml /var/lib/clearml
