import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_resume_run import fit

STEPS = (20,) * 10  # 8 train: 160 windows, 10 batches of 16 in an epoch


def test_a_killed_run_resumes_with_the_batches_it_had_not_seen(record, tmp_path):
    path = record(steps=STEPS)
    whole = fit(path, tmp_path / "whole", tmp_path / "whole.log", workers=2)
    expected = (tmp_path / "whole.log").read_text().splitlines()
    script = Path(__file__).with_name("data_resume_run.py")
    killed = subprocess.run(
        [sys.executable, script, path, tmp_path / "cut", tmp_path / "cut.log", "--kill-at", "15"],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "cut.log").read_text().splitlines() == expected[:15]
    last = tmp_path / "cut/step-step=14.ckpt"
    resumed = fit(path, tmp_path / "on", tmp_path / "on.log", workers=2, resume=last)
    assert (tmp_path / "on.log").read_text().splitlines() == expected[14:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"limit_train_batches": 3},
        {"val_check_interval": 2},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
    ],
)
def test_resumes_from_a_checkpoint_of_any_moment(record, tmp_path, trainer):
    path = record(steps=STEPS[:5])  # 5 batches in an epoch
    common = {"workers": 0, "epochs": 2, "every": 1, **trainer}
    fit(path, tmp_path / "whole", tmp_path / "whole.log", **common)
    expected = (tmp_path / "whole.log").read_text().splitlines()
    saved = sorted((tmp_path / "whole").glob("*.ckpt"))
    assert len(saved) > len(expected)  # after every step, and after validation
    for checkpoint in saved:
        step = int(checkpoint.stem.split("=")[1])
        log = tmp_path / f"{checkpoint.stem}.log"
        fit(path, tmp_path / "again", log, resume=checkpoint, **common)
        shown = log.read_text().splitlines() if log.exists() else []
        assert shown == expected[step:], checkpoint.name


def test_resumes_in_the_same_order_with_another_number_of_workers(record, tmp_path):
    path = record(steps=STEPS)
    fit(path, tmp_path / "whole", tmp_path / "whole.log", workers=2, epochs=1)
    expected = (tmp_path / "whole.log").read_text().splitlines()
    checkpoint = tmp_path / "whole/step-step=4.ckpt"
    fit(path, tmp_path / "on", tmp_path / "on.log", workers=0, epochs=1, resume=checkpoint)
    assert (tmp_path / "on.log").read_text().splitlines() == expected[4:]


def test_refuses_to_resume_in_mid_epoch_with_other_data(record, tmp_path):
    common = {"workers": 0, "epochs": 1}
    fit(record(steps=STEPS), tmp_path / "a", tmp_path / "a.log", **common)
    other = record("other.h5", steps=(20,) * 12)
    checkpoint = tmp_path / "a/step-step=4.ckpt"
    with pytest.raises(ValueError, match=r"mid-epoch.*'batches': 10.*'batches': 12"):
        fit(other, tmp_path / "b", tmp_path / "b.log", resume=checkpoint, **common)
