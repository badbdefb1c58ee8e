# shellcheck shell=sh disable=SC2154  # ID and fail are provision.sh's
# The NVIDIA driver, unless the source image has it, and the container toolkit where there is docker.
if [ "$SCALER_GPU_DRIVER" = install ]; then
  case $ID in
    ubuntu)
      # The "server" branch is the one for data centre GPUs; AWS kernels have it prebuilt, so nothing is compiled.
      # The programs are the same for NVIDIA's closed and open kernel modules.
      apt-get -q -y --no-install-recommends install \
        "linux-modules-nvidia-${SCALER_NVIDIA_BRANCH:=570-server}-aws" "nvidia-headless-no-dkms-$SCALER_NVIDIA_BRANCH" \
        "nvidia-utils-${SCALER_NVIDIA_BRANCH%-open}"
      ;;
    debian)
      # The driver is not free software; cloud images name their sources in the one form or the other.
      for sources in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources; do
        [ -e "$sources" ] || continue
        sed -i -e 's/^Components: main$/& contrib non-free non-free-firmware/' \
          -e 's/^deb .* main$/& contrib non-free non-free-firmware/' "$sources"
      done
      apt-get -q update
      apt-get -q -y --no-install-recommends install "linux-headers-cloud-$(dpkg --print-architecture)" nvidia-driver nvidia-smi
      ;;
  esac
elif ! command -v nvidia-smi >/dev/null; then
  fail "SCALER_GPU_DRIVER=present, but this source image has no nvidia-smi: choose one with the driver, or set it to install."
fi
if command -v dockerd >/dev/null && ! command -v nvidia-ctk >/dev/null; then
  # NVIDIA's own repository; its key is fetched once, at bake time, and apt checks every package with it.
  toolkit=https://nvidia.github.io/libnvidia-container
  apt-get -q -y --no-install-recommends install curl gpg
  curl -fsSL "$toolkit/gpgkey" | gpg --dearmor --yes -o /usr/share/keyrings/nvidia-container-toolkit.gpg
  echo "deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit.gpg] $toolkit/stable/deb/$(dpkg --print-architecture) /" \
    >/etc/apt/sources.list.d/nvidia-container-toolkit.list
  apt-get -q update
  apt-get -q -y --no-install-recommends install nvidia-container-toolkit
fi
if command -v dockerd >/dev/null; then
  nvidia-ctk runtime configure --runtime=docker
fi
