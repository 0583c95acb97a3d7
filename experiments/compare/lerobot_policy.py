"""LeRobot's Diffusion Policy and ACT on PushT; run by an environment with LeRobot, without ours.

``fit DEMOS FOLDER …`` trains a policy on arrays as LeRobot's training script does on its data sets,
and saves it with ``fit.json``, its settings and what it cost. ``act FOLDER`` answers each line of
its input, ``{"states": (B, n, Q), "noise_seeds": (B,)}``, by a line with action chunks
``(B, H, D)``, both in JSON, until an empty one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import (
    get_policy_class,
    make_policy_config,
    make_pre_post_processors,
)
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from lerobot.utils.random_utils import set_seed
from numpy.typing import NDArray
from torch import Tensor

SETTINGS: dict[str, dict[str, Any]] = {
    "diffusion": {"down_dims": (64, 128, 256)},
    "act": {
        "chunk_size": 16,
        "n_action_steps": 8,
        "dim_model": 128,
        "dim_feedforward": 512,
        "n_encoder_layers": 2,
        "n_vae_encoder_layers": 2,
    },
}
"""Settings that differ from LeRobot's: small networks, and ACT's chunks as long as the others'."""

AGENT_DIM = 2
"""The first dimensions of a state are the disc's; the others are the block's."""

LOG_STEPS = 100

Demos = Mapping[str, NDArray[Any]]
"""All demonstrations, concatenated: ``actions`` ``(T, D)``, ``states`` ``(T, Q)``; ``lengths``."""


def make_config(policy: str, demos: Demos) -> PreTrainedConfig:
    """Settings of a policy for the dimensions of the demonstrations."""
    config = make_policy_config(policy, **SETTINGS[policy])
    block_dim = demos["states"].shape[1] - AGENT_DIM
    config.input_features = {
        OBS_STATE: PolicyFeature(FeatureType.STATE, (AGENT_DIM,)),
        OBS_ENV_STATE: PolicyFeature(FeatureType.ENV, (block_dim,)),
    }
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, demos["actions"].shape[1:])}
    # LeRobot's defaults do not normalize the state of the environment.
    config.normalization_mapping["ENV"] = config.normalization_mapping["STATE"]
    return config


def observe(states: Tensor) -> dict[str, Tensor]:
    """States ``(…, Q)`` under LeRobot's names."""
    return {OBS_STATE: states[..., :AGENT_DIM], OBS_ENV_STATE: states[..., AGENT_DIM:]}


def statistics(demos: Demos) -> dict[str, dict[str, Tensor]]:
    """Statistics of each feature over all frames, for the normalization."""
    features = observe(torch.from_numpy(demos["states"]))
    features[ACTION] = torch.from_numpy(demos["actions"])
    return {
        name: {
            "min": values.amin(0),
            "max": values.amax(0),
            "mean": values.mean(0),
            "std": values.std(0, correction=0),
        }
        for name, values in features.items()
    }


class Samples:
    """Training samples with the steps that a policy asks for, as `LeRobotDataset` returns them.

    Steps outside of a demonstration repeat its first or last one.

    Args:
        demos: The demonstrations.
        config: Settings of the policy.
    """

    def __init__(self, demos: Demos, config: PreTrainedConfig) -> None:
        self.actions = torch.from_numpy(demos["actions"])
        self.states = torch.from_numpy(demos["states"])
        lengths = torch.from_numpy(demos["lengths"])
        ends = lengths.cumsum(0)
        self.first = (ends - lengths).repeat_interleave(lengths)
        self.last = (ends - 1).repeat_interleave(lengths)
        self.observed = config.observation_delta_indices
        self.predicted = torch.tensor(config.action_delta_indices)
        frames = torch.arange(len(self.actions))
        self.frames = frames[frames + getattr(config, "drop_n_last_frames", 0) <= self.last]

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Endless batches, shuffled anew in each epoch."""
        while True:
            order = self.frames[torch.randperm(len(self.frames))]
            yield from map(self.at, order.split(batch_size))

    def at(self, frames: Tensor) -> dict[str, Tensor]:
        """The samples of some frames, ``(B,)``."""
        first, last = self.first[frames, None], self.last[frames, None]
        observed = frames
        if self.observed is not None:
            observed = (frames[:, None] + torch.tensor(self.observed)).clamp(first, last)
        predicted = frames[:, None] + self.predicted
        return {
            **observe(self.states[observed]),
            ACTION: self.actions[predicted.clamp(first, last)],
            "action_is_pad": (predicted < first) | (predicted > last),
        }


def fit(settings: argparse.Namespace) -> None:
    """Train a policy with LeRobot's optimizer and learning rate schedule, and save it."""
    set_seed(settings.seed)
    demos = np.load(settings.demos)
    config = make_config(settings.policy, demos)
    policy = get_policy_class(settings.policy)(config).to(config.device)
    preprocess, postprocess = make_pre_post_processors(config, dataset_stats=statistics(demos))
    preset, schedule = config.get_optimizer_preset(), config.get_scheduler_preset()
    optimizer = preset.build(policy.get_optim_params())
    scheduler = schedule.build(optimizer, settings.steps) if schedule else None
    policy.train()
    start, losses = time.process_time(), []
    batches = Samples(demos, config).batches(settings.batch_size)
    for step, batch in zip(range(1, settings.steps + 1), batches, strict=False):
        loss, _ = policy(preprocess(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), preset.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
        if step % LOG_STEPS == 0 or step == settings.steps:
            ms, recent = 1000 * (time.process_time() - start) / step, np.mean(losses[-LOG_STEPS:])
            print(f"step {step}: loss {recent:.4f}, {ms:.0f} ms of a core a step", flush=True)
    for part in (policy, preprocess, postprocess):
        part.save_pretrained(settings.folder)
    record = {
        "policy": settings.policy,
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "lr": preset.lr,
        "seed": settings.seed,
        "n_obs_steps": config.n_obs_steps,
        "n_action_steps": config.n_action_steps,
        "parameters": sum(each.numel() for each in policy.parameters()),
        "core_minutes": (time.process_time() - start) / 60,
    }
    (settings.folder / "fit.json").write_text(json.dumps(record, indent=2) + "\n")


def act(settings: argparse.Namespace) -> None:
    """Answer observations on the standard input until an empty line."""
    with redirect_stdout(sys.stderr):
        config = PreTrainedConfig.from_pretrained(settings.folder)
        policy = get_policy_class(config.type).from_pretrained(settings.folder).eval()
        processors = make_pre_post_processors(config, pretrained_path=str(settings.folder))
    while line := sys.stdin.readline().strip():
        request = json.loads(line)
        with redirect_stdout(sys.stderr):
            states = torch.tensor(request["states"])
            actions = sample(policy, processors, states, request["noise_seeds"])
        print(json.dumps(actions.tolist()), flush=True)


@torch.inference_mode()
def sample(
    policy: Any, processors: tuple[Any, Any], states: Tensor, noise_seeds: list[int]
) -> Tensor:
    """The actions that LeRobot executes before it acts again, ``(B, H, D)``.

    Args:
        policy: The policy.
        processors: Its pre- and postprocessor.
        states: Observed states ``(B, n, Q)``.
        noise_seeds: Seeds of the noise, B of them.
    """
    preprocess, postprocess = processors
    config = policy.config
    if config.type == "act":
        chunks = policy.predict_action_chunk(preprocess(observe(states[:, -1])))
        actions: Tensor = postprocess(chunks[:, : config.n_action_steps])
        return actions
    # Its public methods sample all rows with one generator.
    generators = [torch.Generator().manual_seed(seed) for seed in noise_seeds]
    shape = config.horizon, *config.action_feature.shape
    noise = torch.stack([torch.randn(shape, generator=each) for each in generators])
    model, batch = policy.diffusion, preprocess(observe(states))
    chunks = model.conditional_sample(
        len(states),
        model._prepare_global_conditioning(batch),
        generator=generators,
        noise=noise.to(config.device),
    )
    start = config.n_obs_steps - 1  # its horizon starts at the first observation
    actions = postprocess(chunks[:, start : start + config.n_action_steps])
    return actions


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    training = verbs.add_parser("fit")
    training.set_defaults(run=fit)
    training.add_argument("demos", type=Path)
    training.add_argument("folder", type=Path)
    training.add_argument("--policy", choices=list(SETTINGS), required=True)
    training.add_argument("--steps", type=int, required=True)
    training.add_argument("--batch_size", type=int, required=True)
    training.add_argument("--seed", type=int, required=True)
    acting = verbs.add_parser("act")
    acting.set_defaults(run=act)
    acting.add_argument("folder", type=Path)
    settings = parser.parse_args()
    settings.run(settings)


if __name__ == "__main__":
    main()
