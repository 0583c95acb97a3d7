import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_processes_run import fit as fit_policy
from data_resume_run import fit

STEPS = (20,) * 10  # 8 to train on: 160 samples, 10 batches of 16 in an epoch


def test_a_killed_run_resumes_with_the_remaining_batches(record, tmp_path):
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
    resumed = fit(path, tmp_path / "resumed", tmp_path / "resumed.log", workers=2, resume=last)
    assert (tmp_path / "resumed.log").read_text().splitlines() == expected[14:]
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
def test_resumes_from_a_checkpoint_of_any_step(record, tmp_path, trainer):
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
        batches = log.read_text().splitlines() if log.exists() else []
        assert batches == expected[step:], checkpoint.name


def test_resumes_in_the_same_order_with_another_number_of_workers(record, tmp_path):
    path = record(steps=STEPS)
    fit(path, tmp_path / "whole", tmp_path / "whole.log", workers=2, epochs=1)
    expected = (tmp_path / "whole.log").read_text().splitlines()
    checkpoint = tmp_path / "whole/step-step=4.ckpt"
    fit(
        path, tmp_path / "resumed", tmp_path / "resumed.log", workers=0, epochs=1, resume=checkpoint
    )
    assert (tmp_path / "resumed.log").read_text().splitlines() == expected[4:]


def test_refuses_to_resume_within_an_epoch_with_other_data(record, tmp_path):
    common = {"workers": 0, "epochs": 1}
    fit(record(steps=STEPS), tmp_path / "a", tmp_path / "a.log", **common)
    other = record("other.h5", steps=(20,) * 12)
    checkpoint = tmp_path / "a/step-step=4.ckpt"
    with pytest.raises(
        ValueError, match=r"middle .* demos .*batches 10 \(now 12\).*on_resume=rest"
    ):
        fit(other, tmp_path / "b", tmp_path / "b.log", resume=checkpoint, **common)


@pytest.mark.parametrize("batch_size", [8, 12, 40])
def test_another_batch_size_restarts_the_epoch_where_the_switch_allows_it(
    record, tmp_path, batch_size
):
    path, last = record(steps=STEPS), tmp_path / "a/step-step=6.ckpt"
    fit(path, tmp_path / "a", tmp_path / "a.log", workers=0, epochs=1)
    options = {"batch_size": batch_size, "on_resume": "restart_epoch"}
    with pytest.warns(UserWarning, match="sampled from its start"):
        fit(
            path, tmp_path / "b", tmp_path / "b.log", workers=0, resume=last, epochs=2, data=options
        )
    batches = [line.split(" ", 3) for line in (tmp_path / "b.log").read_text().splitlines()]
    per_epoch = 160 // batch_size
    remaining = per_epoch - 6 if per_epoch > 6 else per_epoch  # of an epoch of fewer batches, all
    assert [b[1] for b in batches] == ["0"] * remaining + ["1"] * per_epoch
    assert [int(b[0]) for b in batches] == list(range(6, 6 + len(batches)))


def test_refuses_other_demonstrations_of_the_same_lengths(record, tmp_path):
    common = {"workers": 0, "epochs": 1}
    fit(record(steps=STEPS), tmp_path / "a", tmp_path / "a.log", **common)
    other = record("other.h5", steps=STEPS)
    checkpoint = tmp_path / "a/step-step=4.ckpt"
    with pytest.raises(ValueError, match=r"epoch with demos \d+ \(now \d+\), so its"):
        fit(other, tmp_path / "b", tmp_path / "b.log", resume=checkpoint, **common)


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_on_one_where_the_switch_allows_it(record, tmp_path):
    demos = record(steps=(16, 16), side=32)  # 32 samples: 4 batches on two processes, 8 on one
    script = Path(__file__).with_name("data_processes_run.py")
    path = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, script, demos, tmp_path / "two", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        check=True,
    )
    resume = tmp_path / "two/step=3.ckpt"
    message = r"epoch with processes 2 \(now 1\), batches 4 \(now 8\).*on_resume=restart_epoch"
    with pytest.raises(ValueError, match=message):
        fit_policy(demos, tmp_path / "exact", 1, steps=12, resume=resume)
    with pytest.warns(UserWarning, match=r"processes 2 \(now 1\).*sampled from its start"):
        batches = fit_policy(
            demos, tmp_path / "one", 1, steps=12, resume=resume, on_resume="restart_epoch"
        )
    # Of the eight batches of the first epoch, five are left.
    assert batches == [(0, step, 4) for step in range(3, 8)] + [
        (1, step, 4) for step in range(8, 12)
    ]
    saved = torch.load(tmp_path / "one/step=12.ckpt", weights_only=True)
    assert saved["global_step"] == 12
