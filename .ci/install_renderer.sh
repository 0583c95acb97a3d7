#!/usr/bin/env bash
# Installs Mesa's software renderers where no simulator can render: Vulkan for ManiSkill, EGL and
# OSMesa for LIBERO. Debian and Ubuntu, as root. It may add bookworm-backports to the apt sources.
#
#   .ci/install_renderer.sh [PYTHON]
set -euo pipefail
python=${1:-python3}

can_render() {
  "$python" -c 'from e0_lightning.envs.vulkan import check; check()' &&
    { ! "$python" -c 'import mujoco' 2> /dev/null ||
      "$python" -c 'from e0_lightning.envs.mujoco_gl import offscreen; offscreen()'; }
}

if can_render > /dev/null 2>&1; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  can_render || true
  echo "Run as root: $0 $python" >&2
  exit 1
fi

apt-get update
suite=()
# Mesa of Debian 12 cannot render off-screen; that of its backports can. All its parts must have one
# version, so all come from there.
if grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
  archive=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)
  echo "deb $archive bookworm-backports main" > /etc/apt/sources.list.d/backports.list
  apt-get update
  suite=(-t bookworm-backports)
fi
apt-get install -y "${suite[@]}" mesa-vulkan-drivers libvulkan1 libgl1 libegl1 libosmesa6 libglib2.0-0
can_render
