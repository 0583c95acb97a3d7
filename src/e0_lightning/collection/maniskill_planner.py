"""One demonstration of a ManiSkill task: plan it, then replay it to images.

Runs in the worker processes of `collect`; ManiSkill's own planner, recorder and replay do the work.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CollectionConfig:
    """What every demonstration of a file has in common.

    Args:
        task: ManiSkill's name of the task.
        control_mode: Controller that the recorded actions are meant for.
        image_size: Side of the cameras' images in pixels; None for the task's own.
        render_backend: What draws them, ``cpu`` or ``gpu``.
    """

    task: str
    control_mode: str
    image_size: int | None
    render_backend: str

    @property
    def cameras(self) -> dict[str, Any]:
        """``sensor_configs`` for `gym.make`."""
        size = (
            {} if self.image_size is None else {"width": self.image_size, "height": self.image_size}
        )
        return {"shader_pack": "default", **size}


class Demonstrator:
    """Demonstrates one seed after another, in two environments that stay open.

    The files of the last demonstration lie in the working directory until the next one.

    Args:
        recipe: What to demonstrate.

    Raises:
        ValueError: If the robot lacks the control mode.
    """

    def __init__(self, recipe: CollectionConfig) -> None:
        import gymnasium
        import mani_skill.envs  # noqa: F401  (registers the tasks)
        from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS

        logging.getLogger("mani_skill ").setLevel(logging.ERROR)
        self.recipe = recipe
        self.solve = MP_SOLUTIONS[recipe.task]
        common: dict[str, Any] = {
            "sim_backend": "physx_cpu",
            "render_backend": recipe.render_backend,
            "num_envs": 1,
        }
        self.stage = gymnasium.make(
            recipe.task, obs_mode="none", control_mode="pd_joint_pos", **common
        )
        world: Any = self.stage.unwrapped
        modes = world.agent.supported_control_modes
        if recipe.control_mode not in modes:
            raise ValueError(
                f"{recipe.task}: its robot has no control mode {recipe.control_mode!r}; "
                f"it has {', '.join(modes)}"
            )
        self.studio = gymnasium.make(
            recipe.task,
            obs_mode="rgb",
            control_mode=recipe.control_mode,
            sensor_configs=recipe.cameras,
            **common,
        )

    def demonstrate(self, seed: int) -> dict[str, Any]:
        """ActionSample and record one episode to ``demonstration.h5``.

        Returns:
            The sidecar of that file. Where planner or replay missed the goal its ``episodes`` is
            empty, ``failure`` says why, and there is no such file.
        """
        from mani_skill.trajectory.replay_trajectory import Args, replay_cpu_sim

        failure = self._plan(seed)
        if not failure:
            replay = Args(
                traj_path="plan.h5",
                target_control_mode=self.recipe.control_mode,
                save_traj=True,
            )
            failure = self._replay(replay, replay_cpu_sim)
        sidecar = Path("plan.json" if failure else "demonstration.json")
        found: dict[str, Any] = json.loads(sidecar.read_text())
        return {**found, "episodes": [], "failure": failure} if failure else found

    def _plan(self, seed: int) -> str:
        recorder = _recorder(self.stage, "plan")
        failure = ""
        try:
            with redirect_stdout(io.StringIO()):
                outcome = self.solve(recorder, seed=seed, debug=False, vis=False)
            if outcome == -1:
                failure = "the planner found no path"
            elif not outcome[-1]["success"].item():
                failure = "the plan ended without success"
        except Exception as error:  # solutions raise whatever the planner raises: not this seed
            failure = f"the planner raised {error!r}"
        if not failure:
            recorder.flush_trajectory()
        recorder.close()
        return failure

    def _replay(self, replay: Any, replay_cpu_sim: Any) -> str:
        import h5py

        recorder = _recorder(self.studio, "demonstration")
        plan = json.loads(Path("plan.json").read_text())
        with h5py.File(replay.traj_path, "r") as actions, redirect_stdout(io.StringIO()):
            try:
                result = replay_cpu_sim(
                    replay, recorder, self.stage, None, plan["episodes"], actions
                )
            except (NotImplementedError, AssertionError) as error:
                raise ValueError(
                    f"ManiSkill cannot convert the planner's pd_joint_pos actions to "
                    f"{replay.target_control_mode} ({error}); choose another control mode"
                ) from error
        recorder.close()
        if result.successful_replays:
            return ""
        Path("demonstration.h5").unlink()
        return f"the actions missed the goal when replayed as {replay.target_control_mode}"


def _recorder(env: Any, name: str) -> Any:
    import gymnasium
    from mani_skill.utils.wrappers import RecordEpisode

    class KeptOpen(gymnasium.Wrapper):  # type: ignore[type-arg]
        """Closing the recorder finishes its file and must not close the environment."""

        def close(self) -> None:
            pass

    return RecordEpisode(
        KeptOpen(env),
        ".",
        trajectory_name=name,
        save_video=False,
        save_on_reset=False,
        record_reward=False,
        source_type="motionplanning",
        source_desc="ManiSkill's motion planning solution, replayed to images",
    )


def work(connection: Connection, recipe: CollectionConfig, folder: Path) -> None:
    """Answer seeds with ``(file, sidecar)``, or with an exception; the loop of a worker process."""
    with tempfile.TemporaryDirectory(prefix="unfinished_", dir=folder) as own:
        try:
            # ManiSkill names a sidecar by replacing ".h5" anywhere in the path of its file.
            os.chdir(own)
            demonstrator = Demonstrator(recipe)
            while True:
                sidecar = demonstrator.demonstrate(connection.recv())
                connection.send((Path(own) / "demonstration.h5", sidecar))
        except EOFError:
            raise
        except Exception as error:
            connection.send(error)
