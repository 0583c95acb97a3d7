"""DROID demonstrations from ManiSkill's motion planner: `e0 collect droid`."""

from __future__ import annotations

import io
from collections import defaultdict
from contextlib import closing, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.collection.episode_store import fsync_rename
from e0_lightning.collection.maniskill import MAX_CONSECUTIVE_FAILURES, check_planner
from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.droid_panda import DroidPanda, joint_velocity
from e0_lightning.envs.maniskill import check_task
from e0_lightning.geometry import resize_frames
from e0_lightning.random import derive_seed
from e0_lightning.types import ViewSize

FRAME_SIZE = ViewSize(180, 320)
"""Size of the recorded frames, that of DROID's release in RLDS."""

NOISE = 0.05
"""Standard deviation of the noise on the joint velocities that are executed. Those recorded are
without it, and lead back to the plan: demonstrations of corrections, as in DART (Laskey et al.,
2017, arXiv:1703.09327)."""

VIEWS = {"exterior_image_1_left": "varied_camera_1", "wrist_image_left": "hand_camera"}
"""View of a policy to DROID's name of its camera."""


def collect(task: str, num_episodes: int, out: Path | None = None) -> Path:
    """Collect successful demonstrations of a ManiSkill task in DROID's format.

    ManiSkill's motion planner moves its Panda behind the interface of DROID's robot on the seeds 0,
    1, 2, …; seeds that fail are skipped. Each episode is a file as DROID's converter writes it,
    ``episode_<seed>.h5``, with joint velocities at 15 Hz and the frames of an exterior and a wrist
    camera, 360 × 640 pixels rendered and 180 × 320 stored. Finished episodes survive an
    interruption: run the same command again to resume, or with a larger `num_episodes` to extend.

    Args:
        task: Name of the task, such as PushCube-v1.
        num_episodes: Demonstrations in `out`.
        out: Folder of the episodes; None for ``data/droid/<task>``.

    Returns:
        The folder.

    Raises:
        ValueError: If the task has no planner, or too many seeds in a row fail.
        ModuleNotFoundError: If ManiSkill is not installed.
        RuntimeError: If NumPy is too new for the planner, or no renderer is found.
    """
    from tqdm import tqdm

    check_planner(task)
    check_task(task, INSTRUCTIONS)
    folder = Path(out or Path("data/droid") / task)
    folder.mkdir(parents=True, exist_ok=True)
    done = {int(path.stem.removeprefix("episode_")) for path in folder.glob("episode_*.h5")}
    failures, seeds = 0, (seed for seed in count() if seed not in done)
    with closing(DroidRecorder(task)) as recorder, tqdm(total=num_episodes, desc=task) as bar:
        bar.update(len(done))
        while bar.n < num_episodes:
            failure = recorder.demonstrate(seed := next(seeds), folder / f"episode_{seed}.h5")
            failures = failures + 1 if failure else 0
            if failures == MAX_CONSECUTIVE_FAILURES:
                raise ValueError(f"{task}: {failures} seeds in a row failed, the last: {failure}.")
            bar.update(not failure)
    return folder


class DroidRecorder:
    """The environment that a motion planner moves; each of its steps becomes one of DROID.

    Args:
        task: ManiSkill's name of the task.
    """

    def __init__(self, task: str) -> None:
        from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS

        self.task, self.solve = task, MP_SOLUTIONS[task]
        self.panda = DroidPanda(task)
        self.unwrapped = self.panda.simulation
        self._rows: dict[str, list[Any]] = {}
        self._is_solved = False
        self._noise = np.random.default_rng()

    def demonstrate(self, seed: int, path: Path) -> str:
        """Plan the episode of a seed and record it if it ends with success.

        Returns:
            Why it failed, empty if `path` was written.
        """
        try:
            with redirect_stdout(io.StringIO()):
                plan = self.solve(self, seed=seed, debug=False, vis=False)
        except Exception as error:  # solutions raise whatever the planner raises for a seed
            return f"the planner raised {error!r}"
        if plan == -1:
            return "the planner found no path"
        if not self._is_solved:
            return "the plan ended without success"
        self._write(path)
        return ""

    def reset(self, seed: int, **_: Any) -> None:
        """Start the episode of a seed; called by the planner."""
        self.panda.reset(seed)
        self._rows, self._is_solved = defaultdict(list), False
        self._noise = np.random.default_rng(derive_seed("droid", seed))

    def step(self, action: NDArray[np.float64]) -> tuple[None, float, bool, bool, dict[str, Any]]:
        """Record the observation and the joint targets and gripper, ``(8,)``, as DROID would.

        They are executed with noise.

        Returns:
            What a step of gymnasium does, without an observation.
        """
        joints = self.panda.joint_position
        velocity, gripper = joint_velocity(action[:7], joints), (1 - action[7]) / 2
        row: dict[str, Any] = {
            "observation/controller_info/movement_enabled": True,
            "observation/robot_state/joint_positions": joints,
            "observation/robot_state/gripper_position": self.panda.gripper_position[0],
            "action/joint_velocity": velocity,
            "action/gripper_position": np.float32(gripper),
        }
        for view, frame in self.panda.frames().items():
            key = f"observation/camera/image/{VIEWS[view]}_left_image"
            row[key] = resize_frames(frame[None], FRAME_SIZE)[0]
        for key, value in row.items():
            self._rows[key].append(value)
        executed = velocity + NOISE * self._noise.standard_normal(7)
        self.panda.command(np.append(executed, gripper))
        self._is_solved = self.panda.advance()
        return None, 0.0, False, False, {}

    def close(self) -> None:
        """Free the scene."""
        self.panda.close()

    def _write(self, path: Path) -> None:
        import h5py

        unfinished = path.with_name(f"unfinished_{path.name}")
        with h5py.File(unfinished, "w") as file:
            file.attrs.update(success=True, failure=False, current_task=INSTRUCTIONS[self.task])
            for key, rows in self._rows.items():
                values = np.stack(rows)
                if values.ndim == 4:  # a frame at a time can be read
                    chunks = (1, *values.shape[1:])
                    file.create_dataset(key, data=values, chunks=chunks, compression="gzip")
                else:
                    file.create_dataset(key, data=values)
        fsync_rename(unfinished, path)
