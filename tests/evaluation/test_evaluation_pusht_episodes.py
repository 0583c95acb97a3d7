import json

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from e0_lightning.evaluation.pusht_episodes import PushTEpisodes
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.types import PolicySpec

pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: pip install '.[pusht]'")


class Centre(LightningModule):
    """Moves to the centre of the workspace."""

    spec = PolicySpec(
        state={"agent_pos": 2}, action_dim=2, control_mode="point_position", horizon=8
    )

    def act(self, observation):
        return torch.full((len(observation["state"]), 8, 2), 256.0)

    def test_step(self, batch, batch_idx):
        return batch.run(self)

    validation_step = test_step


def test_validation_and_test_use_different_seeds():
    data = PushTEpisodes(num_episodes=3, num_val_episodes=2, num_envs=1)
    test, val = (
        [episode.seed for batch in loader for episode in batch.episodes]
        for loader in (data.test_dataloader(), data.val_dataloader())
    )
    assert (test, val) == ([100_000, 100_001, 100_002], [99_998, 99_999])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"first_seed": 1, "num_val_episodes": 2}, "first_seed: expected at least"),
        ({"num_episodes": 0}, "num_episodes: expected at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PushTEpisodes(**wrong)


@pytest.mark.slow
def test_lightning_test_averages_the_score(tmp_path):
    episodes = PushTEpisodes(num_episodes=2, num_envs=1, max_steps=16, num_videos=0)
    trainer = Trainer(
        default_root_dir=tmp_path,
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport()],
        enable_progress_bar=False,
    )
    trainer.test(Centre(), episodes)
    report = json.loads((tmp_path / "rollouts" / "results.json").read_text())
    scores = [episode["score"] for episode in report["episodes"]]
    assert len(set(scores)) == 2
    assert trainer.callback_metrics["test/score"] == pytest.approx(np.mean(scores))
    assert trainer.callback_metrics["test/score/PushT-v0"] == pytest.approx(np.mean(scores))
    assert report["max_steps"] == {"PushT-v0": 16}
    assert report["versions"]["pymunk"].startswith("6.")
