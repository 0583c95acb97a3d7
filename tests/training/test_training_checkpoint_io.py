"""A checkpoint is replaced by a complete one only."""

import os
import resource
import signal

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins import AsyncCheckpointIO

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.training.checkpoint_io import AtomicCheckpointIO
from tiny_policy import InMemoryDemos, new_policy, quiet_trainer, tiny_settings


@pytest.fixture
def limit_file_size():
    """Limit the size of files that this process writes, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, limit_file_size, share):
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"weights": torch.zeros(100_000)}, path)
    limit_file_size(int(share * path.stat().st_size))
    with pytest.raises(OSError, match=r"last\.ckpt: the checkpoint cannot be written .*too large"):
        io.save_checkpoint({"weights": torch.ones(100_000)}, path)
    assert torch.equal(torch.load(path)["weights"], torch.zeros(100_000))
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_no_temporary_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "another disk"))
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "new" / "last.ckpt")
    assert torch.load(tmp_path / "new" / "last.ckpt") == {"step": 1}


def test_trainers_of_policies_save_atomically_unless_they_have_a_plugin(tmp_path):
    for plugin in (None, AsyncCheckpointIO(TorchCheckpointIO())):
        policy = new_policy(tiny_settings())
        plugins = [] if plugin is None else [plugin]
        trainer = quiet_trainer(tmp_path, max_steps=1, plugins=plugins)
        trainer.fit(policy, datamodule=InMemoryDemos())
        used = trainer.strategy.checkpoint_io
        assert used is plugin if plugin else isinstance(used, AtomicCheckpointIO)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        trainer.strategy.teardown()
        assert load_policy(tmp_path / "saved.ckpt").spec == policy.spec
