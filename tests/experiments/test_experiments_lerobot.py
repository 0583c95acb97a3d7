"""LeRobot's policies on PushT, trained and asked for actions in a process of its interpreter."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from e0_lightning.types import Actor
from pusht_recording import record, write

pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: pip install '.[pusht]'")

SCRIPTS = Path(__file__).parents[2] / "experiments" / "compare"
LEROBOT = os.environ.get("LEROBOT_PYTHON")


@pytest.fixture
def lerobot_pusht(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import lerobot_pusht

    return lerobot_pusht


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    recordings = [record(steps=30, seed=seed) for seed in range(3)]
    return str(write(tmp_path_factory.mktemp("pusht") / "pusht.hdf5", recordings))


def test_an_interpreter_without_lerobot_is_named(lerobot_pusht, demos, tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with status 1.*pip install lerobot"):
        lerobot_pusht.fit(sys.executable, "act", tmp_path / "act", demos)


@pytest.mark.slow
@pytest.mark.skipif(
    LEROBOT is None,
    reason="LeRobot's interpreter is not given: set LEROBOT_PYTHON, of an environment of its own "
    "with lerobot==0.4.4",
)
@pytest.mark.parametrize(("policy", "n_obs_steps"), [("diffusion", 2), ("act", 1)])
def test_policies_of_lerobot_are_trained_and_evaluated(
    lerobot_pusht, demos, tmp_path, policy, n_obs_steps
):
    folder = tmp_path / policy
    lerobot_pusht.fit(LEROBOT, policy, folder, demos, steps=3, batch_size=4)
    with lerobot_pusht.LeRobotActor(LEROBOT, folder, demos) as actor:
        assert isinstance(actor, Actor)
        assert actor.spec.n_obs_steps == n_obs_steps
        state = torch.full((3, 18), 256.0)
        state[2] += 20
        observation = {"images": {}, "instruction": [""] * 3, "state": state}
        if n_obs_steps > 1:
            observation["history"] = {"images": {}, "state": state[:, None] - 1}
        first, second, other = actor.act({**observation, "noise_seed": [0, 0, 0]})
        assert first.shape == (actor.spec.horizon, actor.spec.action_dim)
        # In pixels, by the rows' own states and seeds.
        assert 0 < first.min() < first.max() < 512
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert not torch.equal(first, other)
    lerobot_pusht.evaluate(LEROBOT, folder, demos, num_episodes=1)
    report = json.loads((folder / "rollouts" / "results.json").read_text())
    assert report["policy"]["settings"]["steps"] == 3
    assert [episode["seed"] for episode in report["episodes"]] == [100_000]
