#!/bin/sh
# The dead-man's switch: powers the machine off when no sidecar has lived for long and nothing works on it. Run every minute by
# scaler-deadman.timer. It needs neither Python nor anything under /opt, so it outlives whatever broke the sidecar.
#
# Guarantees: it never ends a machine while a task is pulled or runs. It takes every slot's gate first (see scaler_plugin/agent/gate.py),
# so no pull is under way and none can begin; then it looks at the slots' records, at the processes that carry a slot's marker and
# at the agents' containers. What it can't read for certain counts as work.
# It does not: judge a sidecar that lives but hangs (systemd's watchdog does), nor an agent that never gets a task.
#
# From the environment (/etc/systemd/system/scaler-deadman.service.d/ is the place to set them):
#   DEADMAN_SILENCE_S   without a sign of life for so long the sidecar is taken for dead (600)
#   DEADMAN_STARTUP_S   the same before its first sign of life, if the pool's startup_timeout never became known (600)
#   DEADMAN_GRACE_S     added to either startup time: the leader, who keeps the console output, goes first (120)
set -u
state_dir=$(readlink -f "${SCALER_STATE_DIR:-/run/scaler-sidecar}")
silence_s=${DEADMAN_SILENCE_S:-600}
startup_s=${DEADMAN_STARTUP_S:-600}
grace_s=${DEADMAN_GRACE_S:-120}

say() { echo "scaler-deadman: $*"; }

# The first number in a file, without its decimals; nothing if there is none.
number_in() {
  if [ -f "$1" ] && [ ! -L "$1" ]; then
    sed -n '1s/^ *\([0-9][0-9]*\).*/\1/p' "$1" 2>/dev/null
  fi
}

# Why the sidecar counts as dead, as a sentence; nothing while it lives.
silence() {
  uptime=$(number_in /proc/uptime)
  beat=$(number_in "$state_dir/heartbeat")
  if [ -n "$beat" ]; then
    if [ $((uptime - beat)) -ge "$silence_s" ]; then
      echo "The sidecar has shown no life for $((uptime - beat)) s"
    fi
    return
  fi
  limit=$(number_in "$state_dir/startup_timeout")
  limit=$((${limit:-$startup_s} + grace_s))
  if [ "$uptime" -ge "$limit" ]; then
    echo "No sidecar has started in the $uptime s since boot (see the lines of scaler-bootstrap)"
  fi
}

# A field of a slot's record, as JSON of one line.
field() { printf '%s\n' "$2" | sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p"; }

# State letter and start (in ticks since boot) of a process. The command, in brackets, may itself hold brackets and blanks.
stat_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 1,20; }

# What keeps this slot from being ended, as a sentence; nothing if nothing does.
work_on() {
  slot=$1
  record=''
  if [ -f "$slot/state.json" ] && [ ! -L "$slot/state.json" ]; then
    record=$(head -c 65536 "$slot/state.json" | tr -d '\n')
  fi
  since=0
  if [ "$(field boot_id "$record")" = "$(cat /proc/sys/kernel/random/boot_id)" ]; then
    since=$(field written_at "$record")
    agent=$(field pid "$record")
    if [ "$(field state "$record")" = busy ]; then
      # shellcheck disable=SC2046  # two words
      set -- $(stat_of "$agent")
      if [ "${2:-}" = "$(field started_ticks "$record")" ] && [ "${1:-Z}" != Z ]; then
        echo "slot ${slot##*/} works on task $(field task_id "$record")"
        return
      fi
    fi
  fi
  # Only what started under this record: tools that an ended task left behind are nobody's work.
  earliest=$(awk -v since="$since" -v ticks="$(getconf CLK_TCK)" 'BEGIN { printf "%d", (since - 0.02) * ticks }')
  # shellcheck disable=SC2013  # paths under /proc have no blanks
  for environ in $(grep -lzxF "SCALER_SLOT_DIR=$slot" /proc/[0-9]*/environ 2>/dev/null); do
    pid=${environ#/proc/}
    pid=${pid%/environ}
    # shellcheck disable=SC2046
    set -- $(stat_of "$pid")
    if [ "${1:-Z}" != Z ] && [ "${2:-0}" -ge "$earliest" ]; then
      echo "process $pid of slot ${slot##*/} lives"
      return
    fi
  done
}

# Whether a container of an agent runs. Docker is asked only where there is a container at all: a question would start it.
containers() {
  grep -qxF containerd-shim /proc/[0-9]*/comm 2>/dev/null || return 0
  if found=$(timeout 20 docker ps --quiet --filter label=clearml-worker-id 2>/dev/null); then
    [ -z "$found" ] || echo "a task's container runs"
  else
    echo "containers run and docker does not say whose"
  fi
}

if [ "${1:-}" != --gates ]; then
  why=$(silence)
  if [ -z "$why" ]; then
    exit 0
  fi
  export DEADMAN_WHY="$why"
  set -- --gates
  for gate in "$state_dir"/slots/*/gate.lock; do
    if [ -f "$gate" ] && [ ! -L "$gate" ]; then
      set -- "$@" "$gate"
    fi
  done
fi
shift
if [ $# -gt 0 ]; then
  # One gate for each call of itself, all held until the innermost ends.
  gate=$1
  shift
  flock --nonblock --exclusive --conflict-exit-code 75 "$gate" "$0" --gates "$@"
  code=$?
  if [ "$code" -eq 75 ]; then
    say "$DEADMAN_WHY, but an agent holds $gate: not now."
    exit 0
  fi
  exit "$code"
fi

for slot in "$state_dir"/slots/*; do
  if [ -d "$slot" ]; then
    work=$(work_on "$slot")
    if [ -n "$work" ]; then
      say "$DEADMAN_WHY, but $work: the machine stays on."
      exit 0
    fi
  fi
done
work=$(containers)
if [ -n "$work" ]; then
  say "$DEADMAN_WHY, but $work: the machine stays on."
  exit 0
fi

say "$DEADMAN_WHY, and nothing works here: powering off."
systemctl poweroff
# The gates stay held until the shutdown ends this script; agents are stopped before it (see clearml-agent@.service).
sleep 120
say "The shutdown has not come to its end: powering off at once."
systemctl poweroff --force --force
