# shellcheck shell=sh disable=SC2154  # ami, fail and say are provision.sh's
# Nothing upgrades itself, neither now nor on the node: what runs is what was baked, and an upgrade would restart services under a task.
# The image's own upgrades begin at its first boot and hold apt's locks for minutes.
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service
# Not every image has each.
for unit in apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service unattended-upgrades.service; do
  systemctl stop "$unit" 2>/dev/null || true
done
install -m 0644 "$ami/settings/apt.conf" /etc/apt/apt.conf.d/90scaler-sidecar
# An upgrade in the middle of a package finishes that first. apt itself waits for dpkg's lock alone, and gives up at once on the two others.
held_locks() {
  lslocks --noheadings --notruncate --output COMMAND,PID,PATH |
    grep -E ' /var/lib/(apt/lists/lock|dpkg/lock|dpkg/lock-frontend)$| /var/cache/apt/archives/lock$'
}
tries=60
while held=$(held_locks); do
  tries=$((tries - 1))
  [ "$tries" -gt 0 ] || fail "Something else has been installing packages for 5 minutes: $held"
  sleep 5
done

# Ubuntu's images have AWS's SSM agent as a snap.
if command -v snap >/dev/null; then
  { timeout 300 snap wait system seed.loaded && timeout 60 snap refresh --hold; } ||
    say "The snaps could not be held: snapd may refresh them, and restart their services, while tasks run."
fi
