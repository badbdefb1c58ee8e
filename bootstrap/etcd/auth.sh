#!/bin/sh
# Turns authentication on in a new etcd: the user `root` for people, and the user of the cluster's nodes with rights on the cluster's
# keys alone. Both log in by their client certificate, whose common name is the user's; neither has a password.
#
#   ENDPOINT=https://10.0.0.5:2379 CERTS=./etcd-certs ./auth.sh
#
# Runs wherever the endpoint can be reached; needs etcdctl (Debian and Ubuntu: apt-get install etcd-client), or ETCDCTL=/path/to/it.
# PREFIX is the `prefix` of scaler.yaml, NODE_USER another user. It may be run again: what is there already stays.
set -eu
: "${ENDPOINT:?set ENDPOINT to a member, such as https://10.0.0.5:2379}"
: "${CERTS:?set CERTS to the folder that scaler-sidecar etcd certs made}"
prefix=${PREFIX:-scaler-sidecar}
user=${NODE_USER:-scaler}
export ETCDCTL_API=3

ctl() {
  "${ETCDCTL:-etcdctl}" --endpoints="$ENDPOINT" --cacert="$CERTS/clients/root/ca.pem" \
    --cert="$CERTS/clients/root/client.pem" --key="$CERTS/clients/root/client.key" "$@"
}

# What exists already is no failure; everything else is, in etcdctl's own words.
make() {
  if ! said=$(ctl "$@" 2>&1); then
    case $said in
      *"already exists"* | *"already granted"*) ;;
      *)
        echo "$said" >&2
        exit 1
        ;;
    esac
  fi
}

# A first look, because etcdctl waits for ever for the answer to the commands below.
if ! said=$(ctl endpoint health 2>&1); then
  echo "$said" >&2
  echo "No etcd answers at $ENDPOINT with these certificates: is it up, with a majority of its members, is the port open," \
    "is the tunnel there?" >&2
  exit 1
fi
make user add root --no-password
make user grant-role root root
make role add "$user"
make role grant-permission "$user" readwrite --prefix=true "/$prefix/"
make user add "$user" --no-password
make user grant-role "$user" "$user"
ctl auth enable
echo "Authentication is on: $user may use /$prefix/ and nothing else."
