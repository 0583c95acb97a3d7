"""One demonstration of a ManiSkill task: motion planning, then a replay that is recorded.

Runs in the worker processes of `collect`, on ManiSkill's own planner, recorder and replay.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from e0_lightning.collection.episode_store import LIBVER
from e0_lightning.collection.maniskill_episode_store import SIDECAR_DATASET, STATES
from e0_lightning.data.formats.rendering import RENDER_QUALITY
from e0_lightning.envs.maniskill import RECONFIGURATION_FREQ
from e0_lightning.envs.maniskill_meshes import simplify_robot
from e0_lightning.types import RenderQuality

Solution = Callable[..., Any]
"""Plans and executes an episode, ``(env, seed, debug, vis)``; returns the result of the last step,
or -1."""


@dataclass(frozen=True)
class CollectionConfig:
    """Settings shared by every demonstration of a file.

    Args:
        task: ManiSkill's name of the task.
        control_mode: Controller that the recorded actions are meant for.
        images: Whether to record images; without them only states are recorded.
        image_size: Image side in pixels; None for the task's default.
        render_backend: Render device, ``cpu`` or ``gpu``.
        depth: Whether to record depth with the images.
        render_quality: How images are rendered.
    """

    task: str
    control_mode: str
    images: bool
    image_size: int | None
    render_backend: str
    depth: bool = False
    render_quality: RenderQuality = "default"

    @property
    def obs_mode(self) -> str:
        """ManiSkill's observation mode of the recording."""
        if not self.images:
            return STATES
        return "rgb+depth" if self.depth else "rgb"

    @property
    def cameras(self) -> dict[str, Any]:
        """``sensor_configs`` for `gym.make`."""
        size = (
            {} if self.image_size is None else {"width": self.image_size, "height": self.image_size}
        )
        return {"shader_pack": "default", **size}


def solutions() -> dict[str, Solution]:
    """Task to the function that solves it by motion planning, for a robot arm Panda.

    Registers the tasks.
    """
    import mani_skill.envs  # noqa: F401
    from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS

    import e0_lightning.collection.detour_planner as detour_planner
    import e0_lightning.collection.precise_pick_planner as precise_pick_planner
    import e0_lightning.envs.detour as detour
    import e0_lightning.envs.precise_pick as precise_pick

    own = {detour.TASK: detour_planner.solve, precise_pick.TASK: precise_pick_planner.solve}
    return {**MP_SOLUTIONS, **own}


class Demonstrator:
    """Demonstrates one seed after another, in two environments that stay open.

    The files of the last demonstration lie in the working directory until the next one.

    Args:
        config: Task, control mode and images.

    Raises:
        ValueError: If the robot lacks the control mode.
    """

    def __init__(self, config: CollectionConfig) -> None:
        import gymnasium

        self.solve = solutions()[config.task]
        logging.getLogger("mani_skill ").setLevel(logging.ERROR)
        self.config = config
        common: dict[str, Any] = {
            "sim_backend": "physx_cpu",
            "render_backend": config.render_backend,
            "num_envs": 1,
            "reconfiguration_freq": RECONFIGURATION_FREQ,
        }
        self.planning_env = gymnasium.make(
            config.task, obs_mode="none", control_mode="pd_joint_pos", **common
        )
        unwrapped: Any = self.planning_env.unwrapped
        modes = unwrapped.agent.supported_control_modes
        if config.control_mode not in modes:
            raise ValueError(
                f"control_mode: expected one of {', '.join(modes)} for the robot of {config.task}, "
                f"got {config.control_mode!r}."
            )
        self.recording_env = gymnasium.make(
            config.task,
            obs_mode=config.obs_mode,
            control_mode=config.control_mode,
            sensor_configs=config.cameras,
            **common,
        )
        if config.render_quality == "fast":
            simplify_robot(self.recording_env.unwrapped)

    def demonstrate(self, seed: int, path: Path) -> str:
        """Plan one episode and record it to `path`, with its sidecar as a dataset.

        Returns:
            Why planning or replay failed, empty if `path` was written.

        Raises:
            ValueError: If ManiSkill cannot convert the actions to the control mode.
        """
        from mani_skill.trajectory.replay_trajectory import Args, replay_cpu_sim

        failure = self._plan(seed)
        if not failure:
            replay = Args(
                traj_path="plan.h5",
                target_control_mode=self.config.control_mode,
                save_traj=True,
            )
            failure = self._replay(replay, replay_cpu_sim)
        if not failure:
            self._note_render_quality(Path("demonstration.json"))
            copy_with_checksums(Path("demonstration.h5"), path)
        return failure

    def _note_render_quality(self, sidecar: Path) -> None:
        content = json.loads(sidecar.read_text())
        # Not among the env_kwargs, all of which ManiSkill passes to the task.
        content["env_info"][RENDER_QUALITY] = self.config.render_quality
        sidecar.write_text(json.dumps(content))

    def _plan(self, seed: int) -> str:
        recorder = _recorder(self.planning_env, "plan")
        failure = ""
        try:
            with redirect_stdout(io.StringIO()):
                steps = self.solve(recorder, seed=seed, debug=False, vis=False)
            if steps == -1:
                failure = "the planner found no path"
            elif not steps[-1]["success"].item():
                failure = "the plan ended without success"
        except Exception as error:  # solutions raise whatever the planner raises for a seed
            failure = f"the planner raised {error!r}"
        if not failure:
            recorder.flush_trajectory()
        recorder.close()
        return failure

    def _replay(self, replay: Any, replay_cpu_sim: Any) -> str:
        import h5py

        recorder = _recorder(self.recording_env, "demonstration")
        plan = json.loads(Path("plan.json").read_text())
        with h5py.File(replay.traj_path, "r") as actions, redirect_stdout(io.StringIO()):
            try:
                result = replay_cpu_sim(
                    replay, recorder, self.planning_env, None, plan["episodes"], actions
                )
            except (NotImplementedError, AssertionError) as error:
                raise ValueError(
                    f"ManiSkill cannot convert the planner's pd_joint_pos actions to "
                    f"{replay.target_control_mode} ({error}). Choose another control mode."
                ) from error
        recorder.close()
        if result.successful_replays:
            return ""
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
        source_desc="ManiSkill's motion planning solution, replayed",
    )


def copy_with_checksums(source: Path, target: Path) -> None:
    """Copy a recorded file, its datasets with Fletcher-32 checksums, its sidecar as a dataset."""
    import h5py

    with h5py.File(source, "r") as old, h5py.File(target, "w", libver=LIBVER) as new:
        new.attrs.update(old.attrs)

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                new.require_group(name).attrs.update(item.attrs)
                return
            if not item.size or not item.shape:  # cannot be stored in chunks
                old.copy(item, new, name)
                return
            copied = new.create_dataset(
                name,
                data=item[()],
                chunks=item.chunks or True,
                compression=item.compression,
                compression_opts=item.compression_opts,
                shuffle=item.shuffle,
                fletcher32=True,
            )
            copied.attrs.update(item.attrs)

        old.visititems(copy)
        new[SIDECAR_DATASET] = source.with_suffix(".json").read_text()


def work(connection: Connection, config: CollectionConfig, folder: Path) -> None:
    """Demonstrate the seeds received as ``(task, seed, path)``; see `collect_episodes`."""
    with tempfile.TemporaryDirectory(prefix="unfinished_", dir=folder) as working_directory:
        try:
            # ManiSkill names a sidecar by replacing ".h5" anywhere in the path of its file.
            os.chdir(working_directory)
            solutions()
            # ManiSkill collects garbage in every reset, a fifth of a second over what it imports.
            gc.freeze()
            demonstrator = Demonstrator(config)
            while True:
                _, seed, path = connection.recv()
                connection.send(demonstrator.demonstrate(seed, path))
        except EOFError:
            raise
        except Exception as error:
            connection.send(error)
