"""Vulkan device that ManiSkill renders with, or what to install where there is none."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from e0_lightning.envs.base import require_opencv

ADVICE = """no Vulkan device to render with: {reason}.
The simulator renders with Vulkan, on a graphics card or in software (Mesa 24.3 or newer).
{step}
Then `python -m e0_lightning.envs.vulkan` prints the device."""

BACKPORTS = """Debian 12's own Mesa (22.3) is too old; its backports have 25.0.
As root: `make renderer`, or
  ARCHIVE=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)
  echo "deb $ARCHIVE bookworm-backports main" > /etc/apt/sources.list.d/backports.list
  apt-get update
  apt-get install -y -t bookworm-backports mesa-vulkan-drivers libvulkan1 libgl1 libglib2.0-0"""

PACKAGES = """As root: apt-get install -y mesa-vulkan-drivers libvulkan1 libgl1 libglib2.0-0
(other systems: the package with Mesa's `lvp` Vulkan driver, and the Vulkan loader)."""


def device() -> str:
    """Name of the device that the simulator renders with.

    Raises:
        RuntimeError: If there is none, with the packages to install.
        ModuleNotFoundError: If the simulator is not installed.
    """
    return _usable()[0][0]


def backend() -> str:
    """ManiSkill's ``render_backend``: ``gpu`` for a CUDA card with a Vulkan driver, else ``cpu``.

    ManiSkill's own choice depends on CUDA alone, and fails where the card has no Vulkan driver.

    Raises:
        RuntimeError: If there is no device, with the packages to install.
    """
    return "gpu" if any(cuda for _, cuda in _usable()) else "cpu"


def _usable() -> list[tuple[str, bool]]:
    """Every device that can render: its name, and whether it is a CUDA card."""
    try:
        import sapien
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the simulator is not installed (no module `sapien`): "
            "pip install 'e0-lightning[maniskill]'"
        ) from error
    require_opencv()
    try:
        summary: str = sapien.render.get_device_summary()
    except RuntimeError as error:
        raise RuntimeError(_advice(str(error))) from error
    devices = re.findall(
        r"GPU: (.*)\n\s*Supported:\s*(\d).*\n(?:.*\n)*?\s*cudaId:\s*(-?\d+)", summary
    )
    usable = [(name, int(cuda) >= 0) for name, supported, cuda in devices if supported == "1"]
    if not usable:
        names = ", ".join(name for name, _, _ in devices) or "the Vulkan loader lists none"
        raise RuntimeError(_advice(f"none is supported ({names})"))
    # Cards before the software renderer, in the simulator's order of preference.
    return sorted(usable, key=lambda entry: not entry[1])


def _advice(reason: str) -> str:
    drivers = os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES") or ""
    missing = [path for path in drivers.split(os.pathsep) if path and not Path(path).is_file()]
    if missing:
        return ADVICE.format(
            reason=f"VK_ICD_FILENAMES names {missing[0]}, which does not exist",
            step="Unset VK_ICD_FILENAMES, or name a driver file of /usr/share/vulkan/icd.d in it.",
        )
    return ADVICE.format(reason=reason, step=BACKPORTS if _is_debian_12() else PACKAGES)


def _is_debian_12() -> bool:
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return False
    return system.get("ID") == "debian" and system.get("VERSION_ID") == "12"


def check() -> None:
    """Print the device, or exit with status 1 and the packages to install."""
    try:
        print(device())
    except (RuntimeError, ModuleNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    check()
