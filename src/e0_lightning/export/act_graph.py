"""`act` as a function of tensors alone: images, token ids, state and random samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from e0_lightning.networks.language import LanguageModel
from e0_lightning.policies.base import Policy
from e0_lightning.random import GivenSamples, sample_normal, sample_uniform
from e0_lightning.types import History, Observation

GIVEN = "given"
"""Stands for the instruction, whose tokens are an input; another text is a constant."""

SAMPLERS = {"normal": sample_normal, "uniform": sample_uniform}


class ActGraph(nn.Module):
    """Action chunk ``(1, H, D)`` in robot units, for one observation.

    The instruction is tokenized outside, and random samples are inputs, so that equal inputs give
    equal actions on any runtime.

    Args:
        policy: Policy with a spec, on the CPU.
        observation: An observation of its spec, of batch size 1.
        instruction_tokens: Tokens that every instruction is padded to.

    Raises:
        ValueError: If the instruction has more tokens.
    """

    def __init__(self, policy: Policy, observation: Observation, instruction_tokens: int) -> None:
        super().__init__()
        self.policy = policy
        self.inputs = _flatten(observation) | _tokenize(
            policy.encoder.language, observation["instruction"][0], instruction_tokens
        )
        self.samples: dict[str, str] = {}
        """Input of random samples to their distribution, in the order in which they are used."""
        drawn: dict[str, Tensor] = {}

        def record(distribution: str, shape: tuple[int, ...]) -> Tensor:
            name = f"sample.{len(drawn)}"
            self.samples[name] = distribution
            drawn[name] = SAMPLERS[distribution](shape)
            return drawn[name]

        with torch.no_grad():
            self._act(self.inputs, GivenSamples(record))
        self.inputs |= drawn

    def forward(self, *inputs: Tensor) -> Tensor:
        """Act on tensors in the order of :attr:`inputs`."""
        given = dict(zip(self.inputs, inputs, strict=True))
        samples = iter([given[name] for name in self.samples])
        return self._act(given, GivenSamples(lambda *_: next(samples)))

    def _act(self, given: dict[str, Tensor], samples: GivenSamples) -> Tensor:
        observation = _unflatten(given)
        ids, mask = given["token_ids"], given["token_mask"]
        with _given_tokens(self.policy.encoder.language, ids, mask):
            return self.policy.sample_with(observation, samples).actions


def _flatten(observation: Observation) -> dict[str, Tensor]:
    """Tensors of an observation by name."""
    tensors = {f"image.{view}": frames for view, frames in observation["images"].items()}
    tensors["state"] = observation["state"]
    if "history" in observation:
        past = observation["history"]
        tensors |= {f"history.image.{view}": frames for view, frames in past["images"].items()}
        tensors["history.state"] = past["state"]
    return tensors


def _unflatten(given: dict[str, Tensor]) -> Observation:
    def images(start: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(start): tensor
            for name, tensor in given.items()
            if name.startswith(start)
        }

    observation = Observation(images=images("image."), instruction=[GIVEN], state=given["state"])
    if "history.state" in given:
        past = History(images=images("history.image."), state=given["history.state"])
        observation["history"] = past
    return observation


def _tokenize(language: LanguageModel, instruction: str, length: int) -> dict[str, Tensor]:
    """Ids and mask of a padded instruction, ``(1, length)`` int64."""
    ids = torch.as_tensor(language.tokenizer(instruction)["input_ids"], dtype=torch.long)
    if len(ids) > length:
        raise ValueError(
            f"instruction_tokens: expected at least the {len(ids)} of {instruction!r}, got "
            f"{length}. Raise it, or shorten the instruction."
        )
    padded = nn.functional.pad(torch.stack([ids, torch.ones_like(ids)]), (0, length - len(ids)))
    return {"token_ids": padded[:1], "token_mask": padded[1:]}


@contextmanager
def _given_tokens(language: LanguageModel, ids: Tensor, mask: Tensor) -> Iterator[None]:
    """Let a language model take given tokens instead of an instruction's.

    Guidance adds the empty instruction to it.
    """
    tokenizer: Any = language.tokenizer
    empty_ids, empty_mask = _tokenize(language, "", ids.shape[1]).values()

    def tokenize(texts: list[str], **_: Any) -> dict[str, Tensor]:
        known = [(ids, mask) if text == GIVEN else (empty_ids, empty_mask) for text in texts]
        input_ids, attention_mask = map(torch.cat, zip(*known, strict=True))
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    language.tokenizer = tokenize
    try:
        yield
    finally:
        language.tokenizer = tokenizer
