import fcntl

import pytest

from e0_lightning.comparison.runs import LOCK, Budget, Variant


def test_locked_folder_is_refused(tmp_path):
    variant = Variant(tmp_path / "base", [], Budget([]))
    variant.folder.mkdir()
    with (variant.folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="another process is running this variant"):
            variant.train()


def test_variant_is_trained_in_its_own_process(benchmark, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # so that it is restored
    monkeypatch.setenv("PYTHONPATH", ":".join(__import__("sys").path))
    variant = Variant(tmp_path / "base", [], Budget([benchmark], steps=3, threads=1))
    variant.train()
    assert variant.checkpoint.exists()
    assert "max_steps=3" in (variant.folder / "fit.log").read_text()
