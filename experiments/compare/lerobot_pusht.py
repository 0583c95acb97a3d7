"""LeRobot's Diffusion Policy and ACT on PushT, trained on our demonstrations, in our evaluation.

``fit`` trains a policy in an environment with LeRobot, whose dependencies exclude ours;
``evaluate`` does what ``lightning test --config experiments/pusht.yaml`` does for ours.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from e0_lightning import PushTEpisodes, RobotDemos
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.types import EpisodeBatch, EpisodeResult, Observation, PolicySpec

SCRIPT = Path(__file__).with_name("lerobot_policy.py")

DEMOS = "data/pusht/pusht.hdf5"


def read_demos(demos: str, horizon: int = 1, n_obs_steps: int = 1) -> RobotDemos:
    """The demonstrations, with the state and the split of ``experiments/pusht.yaml``."""
    state = ["agent_pos", "block_keypoints"]
    return RobotDemos([demos], views=[], state=state, horizon=horizon, n_obs_steps=n_obs_steps)


def fit(
    lerobot: str,
    policy: Literal["diffusion", "act"],
    out: Path,
    demos: str = DEMOS,
    steps: int = 6000,
    batch_size: int = 64,
    seed: int = 0,
) -> None:
    """Train a policy of LeRobot on the demonstrations that ours are trained on.

    Args:
        lerobot: Interpreter of an environment with LeRobot.
        policy: Diffusion Policy or ACT.
        out: New folder for the policy.
        demos: Demonstrations of PushT.
        steps: Training steps.
        batch_size: Samples in a batch.
        seed: Seed of the training.

    Raises:
        RuntimeError: If the training fails.
    """
    out.mkdir(parents=True)
    training = read_demos(demos).datasets[0].demos
    np.savez(
        out / "demos.npz",
        actions=np.concatenate([d.reader.actions(d.name, 0, d.steps) for d in training]),
        states=np.concatenate([d.reader.states(d.name, 0, d.steps) for d in training]),
        lengths=[d.steps for d in training],
    )
    settings = {"policy": policy, "steps": steps, "batch_size": batch_size, "seed": seed}
    options = [f"--{name}={value}" for name, value in settings.items()]
    ended = subprocess.run([lerobot, SCRIPT, "fit", out / "demos.npz", out, *options], check=False)
    if ended.returncode:
        raise failure(lerobot, ended.returncode)


def evaluate(
    lerobot: str,
    policy: Path,
    demos: str = DEMOS,
    num_episodes: int = 50,
    num_envs: int | None = None,
) -> None:
    """Evaluate a policy of LeRobot, with the report in ``rollouts`` of its folder.

    Args:
        lerobot: Interpreter of an environment with LeRobot.
        policy: Folder that ``fit`` has written.
        demos: Demonstrations with the spec of the policy.
        num_episodes: Episodes, on the seeds of ``experiments/pusht.yaml``.
        num_envs: Environments that step in parallel; one per core if not given.
    """
    trainer = Trainer(
        default_root_dir=policy,
        accelerator="cpu",
        logger=False,
        callbacks=[RolloutReport(str(policy / "rollouts"))],
    )
    with LeRobotActor(lerobot, policy, demos) as actor:
        n_action_steps = actor.spec.horizon
        episodes = PushTEpisodes(num_episodes, num_envs=num_envs, n_action_steps=n_action_steps)
        trainer.test(actor, episodes)


class LeRobotActor(LightningModule):
    """A policy in the process of an interpreter with LeRobot; a context manager.

    Args:
        lerobot: The interpreter.
        policy: Folder of the policy.
        demos: Demonstrations with the spec of the policy.
    """

    def __init__(self, lerobot: str, policy: Path, demos: str = DEMOS) -> None:
        super().__init__()
        fitted: dict[str, Any] = json.loads((policy / "fit.json").read_text())
        self.save_hyperparameters(fitted)  # into the report
        self.spec: PolicySpec = read_demos(
            demos, fitted["n_action_steps"], fitted["n_obs_steps"]
        ).spec
        self._lerobot = lerobot
        self._process = subprocess.Popen(
            [lerobot, SCRIPT, "act", policy],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> LeRobotActor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Its input does not end while processes that were forked meanwhile have it open.
        self._process.communicate("\n")

    def act(self, observation: Observation) -> Tensor:
        """The actions that LeRobot executes at once, ``(B, 8, 2)``, pixels.

        Raises:
            RuntimeError: If the process has ended.
        """
        states = observation["state"][:, None]
        if "history" in observation:
            states = torch.cat([observation["history"]["state"], states], dim=1)
        request = {"states": states.tolist(), "noise_seeds": observation["noise_seed"]}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{json.dumps(request)}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reported below
        answer = self._process.stdout.readline()
        if not answer:
            raise failure(self._lerobot, self._process.wait())
        return torch.tensor(json.loads(answer))

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> list[EpisodeResult]:  # type: ignore[override]
        """Results of a batch of evaluation episodes."""
        return batch.run(self)


def failure(lerobot: str, status: int) -> RuntimeError:
    """What to say of a process that has ended early."""
    return RuntimeError(
        f"{lerobot} {SCRIPT} ended with status {status}, with the message above. Install LeRobot "
        "there: pip install lerobot==0.4.4."
    )


if __name__ == "__main__":
    auto_cli({"fit": fit, "evaluate": evaluate}, as_positional=False)
