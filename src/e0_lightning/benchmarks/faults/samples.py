"""What faults are injected into: small demonstrations, a policy trained on them, experiments."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from e0_lightning.benchmarks.faults.commands import lightning, run
from e0_lightning.collection.maniskill_episode_store import ManiSkillEpisodeStore
from e0_lightning.collection.maniskill_planner import copy_with_checksums

TASK, CONTROL_MODE = "PushCube-v1", "pd_joint_pos"
EPISODES, STEPS, SIDE = 4, 24, 32
"""Demonstrations, their length, and the side of their images."""

TRAINING_STEPS = 40
EVALUATION = {"tasks": [TASK], "num_episodes": 4, "num_envs": 2, "num_videos": 0}


class Samples(NamedTuple):
    """Files that a user has after training: demonstrations, experiments, a policy, predictions."""

    demos: Path
    training: Path
    """Experiment that trains."""
    evaluation: Path
    """The same experiment, with evaluation episodes."""
    checkpoint: Path
    predictions: Path


def make_samples(folder: Path) -> Samples:
    """Write demonstrations and experiments, train a tiny policy, and predict with it.

    Raises:
        RuntimeError: If training or prediction fails.
    """
    demos = folder / "demos.h5"
    write_demonstrations(demos)
    training, evaluation = folder / "training.yaml", folder / "evaluation.yaml"
    training.write_text(json.dumps(_experiment(demos)))
    evaluation.write_text(json.dumps(_experiment(demos, evaluates=True)))
    root = f"--trainer.default_root_dir={folder / 'run'}"
    checkpoint = folder / "run/lightning_logs/version_0/checkpoints/last.ckpt"
    fit = lightning("fit", f"--config={training}", root)
    predict = lightning("predict", f"--config={training}", root, f"--ckpt_path={checkpoint}")
    for command in (fit, predict):
        ended = run(command, folder)
        if ended.status != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {ended.error}")
    (predictions,) = folder.rglob("predictions/rank_0.h5")
    return Samples(demos, training, evaluation, checkpoint, predictions)


def write_demonstrations(out: Path) -> None:
    """Write random demonstrations as `e0 collect maniskill` writes recorded ones."""
    rng = np.random.default_rng(0)
    with closing(ManiSkillEpisodeStore(out, TASK, CONTROL_MODE, None)) as store:
        for seed in range(EPISODES):
            recorded = store.folder / "recorded.h5"
            _record(recorded, seed, rng)
            episode = store.folder / f"unfinished_{seed}.h5"
            copy_with_checksums(recorded, episode)
            store.add(seed, episode)
        store.publish()
        store.clear()


def _record(path: Path, seed: int, rng: np.random.Generator) -> None:
    """Write one trajectory as ManiSkill's recorder does, in the shapes of PushCube-v1."""
    noise = rng.integers(0, 3, (STEPS + 1, SIDE, SIDE, 3))
    with h5py.File(path, "w") as file:
        group = file.create_group("traj_0")
        group["actions"] = rng.random((STEPS, 8), np.float32)
        group["success"] = np.arange(STEPS) == STEPS - 1
        group["obs/agent/qpos"] = rng.random((STEPS + 1, 9), np.float32)
        group["obs/extra/tcp_pose"] = rng.random((STEPS + 1, 7), np.float32)
        matrices = np.tile(np.eye(3, dtype=np.float32) * SIDE, (STEPS + 1, 1, 1))
        group["obs/sensor_param/base_camera/intrinsic_cv"] = matrices
        images = np.cumsum(noise, axis=1).astype(np.uint8)
        name = "obs/sensor_data/base_camera/rgb"
        group.create_dataset(name, data=images, compression="gzip", compression_opts=5)
    environment = {"env_id": TASK, "env_kwargs": {"control_mode": CONTROL_MODE}}
    entry = {"episode_id": 0, "episode_seed": seed, "control_mode": CONTROL_MODE}
    sidecar = {
        "env_info": environment,
        "episodes": [{**entry, "elapsed_steps": STEPS, "success": True}],
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar))


def _experiment(demos: Path, evaluates: bool = False) -> dict[str, Any]:
    """Options of a tiny policy; JSON is YAML."""
    saving = {"every_n_train_steps": 4, "save_last": True}
    callback = {"class_path": "ModelCheckpoint", "init_args": saving}
    if evaluates:
        callback = {"class_path": "RolloutReport", "init_args": {"folder": "report"}}
    episodes = {**EVALUATION, "n_action_steps": 4, "max_steps": 12}
    language = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": TRAINING_STEPS,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [callback],
        },
        "data": {
            "class_path": "RobotDemos",
            "init_args": {
                "demos": [str(demos)],
                "views": ["base_camera"],
                "state": ["qpos", "tcp_pose"],
                "horizon": 4,
                "batch_size": 4,
                "num_workers": 0,
                "val_fraction": 0.25,
                "episodes": {"class_path": "ManiSkillEpisodes", "init_args": episodes}
                if evaluates
                else None,
            },
        },
        "model": {
            "class_path": "E0",
            "init_args": {
                "encoder": {
                    "vision": {"name": "test_vit", "size": SIDE},
                    "language": {"config": {**language, **heads, "head_dim": 16}},
                },
                "expert": {"width": 32, "depth": 2, "heads": 2, "mlp": 64},
                "actions": {"normalizer": {"class_path": "QuantileNormalizer"}},
                "process": {"num_bins": 32, "alpha": 0.1},
                "optimizer": {"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 5},
            },
        },
    }
