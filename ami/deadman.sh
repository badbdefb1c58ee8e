#!/bin/sh
# The dead-man's switch: powers the machine off when no sidecar has lived for long and nothing works on it. Run every minute by
# scaler-deadman.timer. It needs neither Python nor anything under /opt, so it outlives whatever broke the sidecar.
#
# Guarantees: it never ends a machine while a task is pulled or runs. It takes every slot's gate first (see scaler_plugin/agent/gate.py),
# so no pull is under way and none can begin; then it looks at the slots' records, at the processes that carry a slot's marker or
# carry out a task by their command line, and at the agents' containers. What it can't read for certain counts as work.
# A gate that is no lock file, or whose lock another process than the slot's agent holds, is sealed instead: agents take no sealed
# gate, and the seal is taken off again if the machine stays on. So what a task left in its slot's directory neither stops nor
# fools it, and it does not wait for it. What a task swaps between its look and its lock, a pipe for the gate say, can hold up
# a round until the unit's TimeoutStartSec.
# It does not: judge a sidecar that lives but hangs (systemd's watchdog does), nor an agent that never gets a task. A stock agent
# without the plugin (freeze_fallback) has no gate: one that has just been handed a task and has no process for it yet is not seen,
# and that task goes back into its queue by rescue. Any process that says `execute` and `--id` in its command line, as an agent's
# child does, is work for as long as it lives, unless it carries a slot's marker, which says more, or another machine's worker id.
#
# From the environment (/etc/systemd/system/scaler-deadman.service.d/ is the place to set them):
#   DEADMAN_SILENCE_S   without a sign of life for so long the sidecar is taken for dead (600)
#   DEADMAN_STARTUP_S   the same before its first sign of life, if the pool's startup_timeout never became known (600)
#   DEADMAN_GRACE_S     added to either startup time: the leader, who keeps the console output, goes first (120)
set -u
export LC_ALL=C
state_dir=$(readlink -f "${SCALER_STATE_DIR:-/run/scaler-sidecar}")
silence_s=${DEADMAN_SILENCE_S:-600}
startup_s=${DEADMAN_STARTUP_S:-600}
grace_s=${DEADMAN_GRACE_S:-120}

say() { printf 'scaler-deadman: %s\n' "$*"; }

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

# The slot's record, made printable; nothing if there is none of this boot. A task can put there what it likes: a pipe, a file
# under a lease.
record_of() {
  if [ -f "$1/state.json" ] && [ ! -L "$1/state.json" ]; then
    found=$(timeout 5 head -c 65536 "$1/state.json" 2>/dev/null | tr -cd '[:print:]')
    if [ "$(field boot_id "$found")" = "$(cat /proc/sys/kernel/random/boot_id)" ]; then
      printf '%s\n' "$found"
    fi
  fi
}

# A field of a slot's record, as JSON of one line.
field() { printf '%s\n' "$2" | sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p"; }

# The process id in a record; nothing if what stands there is none.
pid_in() { field pid "$1" | sed -n '/^[0-9]\{1,10\}$/p'; }

# State letter and start (in ticks since boot) of a process. The command, in brackets, may itself hold brackets and blanks.
stat_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 1,20; }

# The slot's agent by the service manager's word, else by its record's; nothing if neither knows one.
agent_of() {
  main=$(timeout 10 systemctl show --value --property=MainPID "clearml-agent@${1##*/}.service" 2>/dev/null)
  case $main in
    '' | 0 | *[!0-9]*) pid_in "$(record_of "$1")" ;;
    *) printf '%s\n' "$main" ;;
  esac
}

# Whether a pull is under way on the slot: its agent holds a file of the slot's directory shared, by path, for a task may have moved
# the gate away or deleted it meanwhile. If the agent is not known, anybody may be it. Exclusive locks are this script's own and the
# sidecar's: while one of them holds, nobody pulls.
pulls() {
  agent=$(agent_of "$1")
  # shellcheck disable=SC2013  # process ids have no blanks
  for pid in $(awk '$2 == "FLOCK" && $4 == "READ" { print $5 }' /proc/locks | sort -u); do
    if [ -n "$agent" ] && [ "$pid" != "$agent" ]; then
      continue
    fi
    for fd in "/proc/$pid/fd"/*; do
      case $(readlink "$fd" 2>/dev/null) in
        "$1"/*)
          if grep -q '^lock:.* FLOCK .* READ ' "/proc/$pid/fdinfo/${fd##*/}" 2>/dev/null; then
            return 0
          fi
          ;;
      esac
    done
  done
  return 1
}

# Start (in ticks since boot) from which on a process belongs to the present record. One from the future would hide what lives.
earliest_of() {
  since=$(field written_at "$1")
  case $since in *[!0-9.]* | '') since=0 ;; esac
  awk -v since="$since" -v now="$(cut -d ' ' -f 1 /proc/uptime)" -v ticks="$(getconf CLK_TCK)" \
    'BEGIN { printf "%d", (since + 0 > now + 5 ? 0 : since - 0.02) * ticks }'
}

# What keeps this slot from being ended, as a sentence; nothing if nothing does.
work_on() {
  slot=$1
  record=$(record_of "$slot")
  agent=$(pid_in "$record")
  if [ -n "$agent" ] && [ "$(field state "$record")" = busy ]; then
    # shellcheck disable=SC2046  # two words
    set -- $(stat_of "$agent")
    if [ "${2:-}" = "$(field started_ticks "$record")" ] && [ "${1:-Z}" != Z ]; then
      printf 'slot %s works on task %s\n' "${slot##*/}" "$(field task_id "$record")"
      return
    fi
  fi
  # Only what started under this record: tools that an ended task left behind are nobody's work.
  earliest=$(earliest_of "$record")
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

# Whether a process carries out a task of an agent that knows no slots, as a sentence. The rule is that of
# scaler_plugin/agent/stock_processes.py: `clearml_agent execute … --id TASK`, alone or in the arguments of a `docker run`.
work_of_stock_agents() {
  instance=$(sed -n 's/.*"instance_id": *"\([^"]*\)".*/\1/p' "$state_dir/node.json" 2>/dev/null)
  # shellcheck disable=SC2013
  for cmdline in $(grep -laF -e --id /proc/[0-9]*/cmdline 2>/dev/null); do
    process=${cmdline%/cmdline}
    if timeout 5 head -c 1048576 "$cmdline" 2>/dev/null | tr -s '\000[:space:]' '\n' |
      awk '$0 == "execute" { execute = 1 } before == "--id" { id = 1 } { before = $0 } END { exit !(execute && id) }' &&
      ! grep -qza '^SCALER_SLOT_DIR=' "$process/environ" 2>/dev/null &&
      case $(sed -zn '/^CLEARML_WORKER_ID=/p' "$process/environ" 2>/dev/null | tr -d '\000') in
        '' | *"$instance"*) true ;;
        *) false ;;
      esac; then
      echo "process ${process#/proc/} carries out a task"
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
  for slot in "$state_dir"/slots/*; do
    if [ -d "$slot" ]; then
      set -- "$@" "$slot"
    fi
  done
fi
shift
if [ $# -gt 0 ]; then
  # One gate for each call of itself, all held until the innermost ends.
  slot=$1
  gate=$slot/gate.lock
  shift
  if [ -f "$gate" ] && [ ! -L "$gate" ] && timeout 5 head -c 0 "$gate" 2>/dev/null; then
    flock --nonblock --exclusive --conflict-exit-code 75 "$gate" "$0" --gates "$@"
    code=$?
    if [ "$code" -ne 75 ]; then
      exit "$code"
    fi
    if pulls "$slot"; then
      say "$DEADMAN_WHY, but an agent holds $gate: not now."
      exit 0
    fi
  fi
  # A directory, for it is made in one step and through no link.
  sealed=''
  if mkdir "$slot/sealed" 2>/dev/null; then
    sealed=yes
  fi
  if [ -z "$sealed" ] && [ ! -e "$slot/sealed" ] && [ ! -L "$slot/sealed" ]; then
    say "$DEADMAN_WHY, but slot ${slot##*/} can be neither locked nor sealed: the machine stays on."
  elif pulls "$slot"; then
    say "$DEADMAN_WHY, but an agent holds $gate: not now."
  else
    "$0" --gates "$@"
  fi
  [ -z "$sealed" ] || rmdir "$slot/sealed"
  exit 0
fi

for slot in "$state_dir"/slots/*; do
  if [ -d "$slot" ]; then
    # All gates are held. A pull that began before may hold another one, which a task has replaced since.
    if pulls "$slot"; then
      say "$DEADMAN_WHY, but an agent pulls on slot ${slot##*/}: not now."
      exit 0
    fi
    work=$(work_on "$slot")
    if [ -n "$work" ]; then
      say "$DEADMAN_WHY, but $work: the machine stays on."
      exit 0
    fi
  fi
done
work=$(containers)
if [ -z "$work" ]; then
  work=$(work_of_stock_agents)
fi
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
