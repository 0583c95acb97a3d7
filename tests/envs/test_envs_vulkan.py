import sys
from types import SimpleNamespace

import pytest

from e0_lightning.envs import vulkan

SOFTWARE = (
    "GPU: llvmpipe (LLVM 19)\n  Supported: 1\n  Present:   0\n  cudaId:    -1\n  rayTrace:  1\n"
)
CARD = "GPU: NVIDIA H200\n  Supported: 1\n  Present:   0\n  cudaId:    0\n  rayTrace:  1\n"
OLD = "GPU: llvmpipe (LLVM 15)\n  Supported: 0\n  Present:   0\n  cudaId:    -1\n  rayTrace:  0\n"


@pytest.fixture
def machine(monkeypatch):
    """Replace SAPIEN by one that reports these devices, or raises an error of the loader."""

    def replace(summary, release=None):
        def get_device_summary():
            if isinstance(summary, Exception):
                raise summary
            return summary

        render = SimpleNamespace(get_device_summary=get_device_summary)
        monkeypatch.setitem(sys.modules, "sapien", SimpleNamespace(render=render))
        system = release or {"ID": "debian", "VERSION_ID": "12"}
        monkeypatch.setattr("platform.freedesktop_os_release", lambda: system)
        monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
        monkeypatch.delenv("VK_DRIVER_FILES", raising=False)

    return replace


@pytest.mark.parametrize(
    ("summary", "device", "backend"),
    [
        (SOFTWARE, "llvmpipe (LLVM 19)", "cpu"),
        (SOFTWARE + CARD, "NVIDIA H200", "gpu"),
        (OLD + SOFTWARE, "llvmpipe (LLVM 19)", "cpu"),
    ],
    ids=["software", "card", "one unsupported"],
)
def test_a_supported_device_is_preferred_in_the_order_of_the_simulator(
    machine, summary, device, backend
):
    machine(summary)
    assert vulkan.device() == device
    assert vulkan.backend() == backend


@pytest.mark.parametrize("summary", [RuntimeError("failed to find a rendering device"), OLD, ""])
def test_without_a_device_the_backports_are_advised_on_debian_12(machine, summary):
    machine(summary)
    with pytest.raises(RuntimeError, match="-t bookworm-backports mesa-vulkan-drivers libvulkan1"):
        vulkan.device()


def test_without_a_device_the_packages_are_named_on_other_systems(machine):
    machine("", {"ID": "ubuntu", "VERSION_ID": "24.04"})
    with pytest.raises(RuntimeError, match="apt-get install -y mesa-vulkan-drivers"):
        vulkan.backend()


def test_a_missing_driver_file_is_named(machine, monkeypatch):
    machine(RuntimeError("ErrorIncompatibleDriver"))
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere/lvp_icd.json")
    with pytest.raises(RuntimeError, match=r"names /nowhere/lvp_icd\.json, which does not exist"):
        vulkan.device()


def test_without_sapien_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sapien", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'e0-lightning\[maniskill\]'"):
        vulkan.device()


def test_check_exits_with_the_advice(machine, capsys):
    machine(SOFTWARE)
    vulkan.check()
    assert capsys.readouterr().out == "llvmpipe (LLVM 19)\n"
    machine("")
    with pytest.raises(SystemExit, match="no Vulkan device"):
        vulkan.check()
