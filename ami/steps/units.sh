# shellcheck shell=sh disable=SC2154  # ami, bundle and fail are provision.sh's
# Units, firewall, limits. Sidecar and agents are started by scaler-bootstrap once the node is set up.
install -d -m 0755 /usr/lib/scaler-sidecar /etc/scaler-sidecar /etc/systemd/journald.conf.d
install -m 0644 "$ami"/units/* /etc/systemd/system/
install -m 0755 "$ami/deadman.sh" /usr/lib/scaler-sidecar/deadman
install -m 0755 "$ami/start_node.py" /usr/lib/scaler-sidecar/start-node
install -m 0644 "$ami/nftables.conf" /etc/scaler-sidecar/nftables.conf
install -m 0644 "$ami/settings/journald.conf" /etc/systemd/journald.conf.d/scaler-sidecar.conf
install -m 0644 "$ami/settings/tmpfiles.conf" /etc/tmpfiles.d/scaler-sidecar.conf
systemctl --quiet enable scaler-firewall.service scaler-bootstrap.service scaler-deadman.timer
