# shellcheck shell=sh
# Every instance of the image must be its own machine: nothing that identifies this one, or that was typed here, stays.
if command -v cloud-init >/dev/null; then
  cloud-init clean --logs --seed
fi
apt-get -q clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/lib/dhcp/* /var/tmp/* /tmp/*
rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/dbus/machine-id
rm -f /etc/docker/key.json /var/lib/docker/engine-id # made by docker's first start, for the images pulled ahead
rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
rm -f /root/.*_history /home/*/.*_history /root/.wget-hsts /root/.lesshst /root/.viminfo
rm -rf /root/.cache /home/*/.cache
# Empty, not absent: systemd then makes a new id at the first boot.
: >/etc/machine-id
rm -rf /var/log/journal/* /run/log/journal/*
find /var/log -type f -exec truncate --size 0 {} +
sync
