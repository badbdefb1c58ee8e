# shellcheck shell=sh disable=SC2154  # fail is provision.sh's
# Docker images that the first task then need not wait for.
if [ -n "$SCALER_DOCKER_IMAGES" ]; then
  systemctl start docker.service
  for image in $SCALER_DOCKER_IMAGES; do
    docker pull --quiet "$image" || fail "The docker image $image could not be pulled."
  done
  systemctl stop docker.service docker.socket
fi
