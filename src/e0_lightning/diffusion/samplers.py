"""From noise to tokens: the loop once, and one step per rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.schedules import Schedule, UniformSchedule
from e0_lightning.random import sample_normal, sample_tokens

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(x_tau (B, L, K), tau (B,)) → logits (B, L, K)`` of the posterior over tokens."""

Readout = Literal["center", "left_edge", "expectation", "local"]


class Sample(NamedTuple):
    """What a sampler ends with.

    Args:
        tokens: The rule's own choice, ``(B, L)`` int64 in [0, K).
        logits: The last posterior, ``(B, L, K)`` float32, for a finer read-out.
    """

    tokens: Tensor
    logits: Tensor


class Sampler(ABC):
    """Walks from pure noise through the noise levels of a schedule.

    Args:
        num_steps: Calls N of the denoiser.
        schedule: Noise levels to visit; None is the paper's ``UniformSchedule()``.
        readout: How the policy turns a ``Sample`` into values: the centre or left edge of the
            chosen bin, the expectation over all bins, or over a window around the likeliest; None
            is the rule's own.
        window: Bins either side of the most likely one, for the ``local`` read-out.

    Raises:
        ValueError: If there is no step, or the read-out is none of these.
    """

    own_readout: ClassVar[Readout] = "center"

    def __init__(
        self,
        num_steps: int = 10,
        schedule: Schedule | None = None,
        readout: Readout | None = None,
        window: int = 32,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; sampling needs 1 step or more.")
        if readout is not None and readout not in get_args(Readout):
            raise ValueError(f"readout is {readout!r}; choose one of {get_args(Readout)}.")
        self.num_steps = num_steps
        self.schedule = schedule or UniformSchedule()
        self.readout: Readout = readout or self.own_readout
        self.window = window

    def __call__(
        self,
        denoise: Denoise,
        process: OneHotDiffusion,
        shape: tuple[int, int],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Sample:
        """Draw tokens.

        Args:
            denoise: The posterior over tokens given noisy ones.
            process: The forward process to undo.
            shape: ``(B, L)``.
            generator: What decides every draw; None is torch's own.
            device: Where to work; None is the generator's device, or the CPU.
        """
        x = sample_normal((*shape, process.num_bins), generator, device)
        levels = self.schedule(self.num_steps).to(x.device)[:, None].expand(-1, shape[0])
        logits = denoise(x, levels[0]).float()
        for tau, following in pairwise(levels):
            x = self.step(process, x, logits, tau, following, generator)
            logits = denoise(x, following).float()
        return Sample(self.choose(logits, generator), logits)

    @abstractmethod
    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        following: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Make the next input.

        Args:
            process: The forward process.
            x: This input, ``(B, L, K)``.
            logits: Its posterior, ``(B, L, K)``.
            tau: Its noise level, ``(B,)``.
            following: The next noise level, ``(B,)``.
            generator: What decides the draws.

        Returns:
            The next input, ``(B, L, K)``.
        """

    def choose(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Choose tokens, ``(B, L)``, from a posterior: the most likely ones."""
        return logits.argmax(dim=-1)


class TweedieSampler(Sampler):
    """Feeds the posterior mean back: a probability-flow step through Tweedie's formula.

    ``ε̂ = (x − τ α p) / (1 − τ)``, then ``τ' α p + (1 − τ') (√(1 − η²) ε̂ + η ε')``. With an exact
    posterior it keeps chunks whole and modes in proportion, which choosing tokens does not.

    Args:
        walk: What every :class:`Sampler` takes, in its order.
        eta: Share η in [0, 1] of fresh noise; 0 is deterministic after the first draw.
        options: The same by name.

    Raises:
        ValueError: If η lies outside [0, 1].
    """

    own_readout = "expectation"

    def __init__(self, *walk: Any, eta: float = 0.0, **options: Any) -> None:
        super().__init__(*walk, **options)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}; give a share of fresh noise between 0 and 1.")
        self.eta = eta

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        following: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Move along the posterior mean; see ``Sampler.step``."""
        mean = process.mean(logits)
        noise = process.noise(x, mean, tau)
        if self.eta:
            fresh = sample_normal(x.shape, generator, x.device)
            noise = (1 - self.eta**2) ** 0.5 * noise + self.eta * fresh
        return torch.lerp(noise, mean, following[:, None, None])


class ArgmaxSampler(Sampler):
    """Corrupts the most likely tokens anew (E0, eq. 6 and 12), the paper's rule."""

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        following: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Corrupt the chosen tokens; see ``Sampler.step``."""
        return process.corrupt(self.choose(logits), following, generator)


class CategoricalSampler(Sampler):
    """Corrupts drawn tokens anew, and ends with a draw: the ancestral form of the paper's rule.

    Args:
        walk: What every :class:`Sampler` takes, in its order.
        temperature: T of ``p^(1/T)``, positive; below 1 leans to the most likely tokens.
        options: The same by name.

    Raises:
        ValueError: If T is not positive.
    """

    def __init__(self, *walk: Any, temperature: float = 1.0, **options: Any) -> None:
        super().__init__(*walk, **options)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; give a positive number.")
        self.temperature = temperature

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        following: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Corrupt the drawn tokens; see ``Sampler.step``."""
        return process.corrupt(self.choose(logits, generator), following, generator)

    def choose(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw tokens, ``(B, L)``, from a posterior."""
        return sample_tokens(logits, self.temperature, generator)


class ReleasedSampler(Sampler):
    """Follows the released code of E0: ``α e_k̂ + ε'`` at every step, whatever the noise level.

    The schedule decides only what the denoiser is told; bins are read at their left edges. A
    posterior that knows this noise drifts to the larger of two modes; one that takes it for the
    schedule's believes noise, and ends in either.

    Args:
        walk: What every :class:`Sampler` takes, in its order.
        alpha: α of what is fed back; None for the process's. The released checkpoints were trained
            with 1 and are sampled with 0.1.
        decay_noise: The other rule of that code, ``(1 − σ) α e_k̂ + σ ε'`` with ``σ = √(1 − τ)`` of
            the next level.
        options: What every sampler takes, by name.
    """

    own_readout = "left_edge"

    def __init__(
        self,
        *walk: Any,
        alpha: float | None = None,
        decay_noise: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*walk, **options)
        self.alpha = alpha
        self.decay_noise = decay_noise

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        following: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Add fresh noise to the chosen tokens; see ``Sampler.step``."""
        alpha = process.alpha if self.alpha is None else self.alpha
        signal = alpha * process.encode(self.choose(logits))
        noise = sample_normal(x.shape, generator, x.device)
        if not self.decay_noise:
            return signal + noise
        sigma = (1 - following).sqrt()[:, None, None]
        return (1 - sigma) * signal + sigma * noise
