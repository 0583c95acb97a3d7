import sys
from types import SimpleNamespace

import pytest

from e0_lightning.envs import vulkan as renderer

SOFTWARE = (
    "GPU: llvmpipe (LLVM 19)\n  Supported: 1\n  Present:   0\n  cudaId:    -1\n  rayTrace:  1\n"
)
CARD = "GPU: NVIDIA H200\n  Supported: 1\n  Present:   0\n  cudaId:    0\n  rayTrace:  1\n"
OLD = "GPU: llvmpipe (LLVM 15)\n  Supported: 0\n  Present:   0\n  cudaId:    -1\n  rayTrace:  0\n"


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with these devices, or with an error from the Vulkan loader."""

    def pretend(summary, release=None):
        def answer():
            if isinstance(summary, Exception):
                raise summary
            return summary

        render = SimpleNamespace(get_device_summary=answer)
        monkeypatch.setitem(sys.modules, "sapien", SimpleNamespace(render=render))
        system = release or {"ID": "debian", "VERSION_ID": "12"}
        monkeypatch.setattr("platform.freedesktop_os_release", lambda: system)
        monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
        monkeypatch.delenv("VK_DRIVER_FILES", raising=False)

    return pretend


@pytest.mark.parametrize(
    ("summary", "device", "backend"),
    [
        (SOFTWARE, "llvmpipe (LLVM 19)", "cpu"),
        (SOFTWARE + CARD, "NVIDIA H200", "gpu"),
        (OLD + SOFTWARE, "llvmpipe (LLVM 19)", "cpu"),
    ],
    ids=["software", "card", "one too old"],
)
def test_the_device_that_draws_is_named(machine, summary, device, backend):
    machine(summary)
    assert renderer.device() == device
    assert renderer.backend() == backend


@pytest.mark.parametrize("summary", [RuntimeError("failed to find a rendering device"), OLD, ""])
def test_without_a_device_debian_12_is_sent_to_its_backports(machine, summary):
    machine(summary)
    with pytest.raises(RuntimeError, match="-t bookworm-backports mesa-vulkan-drivers libvulkan1"):
        renderer.device()


def test_other_systems_are_told_the_packages(machine):
    machine("", {"ID": "ubuntu", "VERSION_ID": "24.04"})
    with pytest.raises(RuntimeError, match="apt-get install -y mesa-vulkan-drivers"):
        renderer.backend()


def test_a_driver_file_that_does_not_exist_is_named(machine, monkeypatch):
    machine(RuntimeError("ErrorIncompatibleDriver"))
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere/lvp_icd.json")
    with pytest.raises(RuntimeError, match=r"names /nowhere/lvp_icd\.json, which does not exist"):
        renderer.device()


def test_without_a_simulator_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sapien", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'e0-lightning\[maniskill\]'"):
        renderer.device()


def test_the_check_leaves_with_the_advice(machine, capsys):
    machine(SOFTWARE)
    renderer.check()
    assert capsys.readouterr().out == "llvmpipe (LLVM 19)\n"
    machine("")
    with pytest.raises(SystemExit, match="no Vulkan device"):
        renderer.check()
