"""Samplers from noise to tokens: one loop, and one update rule per class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.schedules import Schedule, UniformSchedule
from e0_lightning.random import Generator, sample_tokens

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(x_tau (B, L, K), tau (B,)) → logits (B, L, K)`` of the posterior over tokens."""

Readout = Literal["center", "left_edge", "expectation", "local"]
"""How values are read from tokens or their posterior; see ``ActionTokenizer.read_out``."""


class Sampler(ABC):
    """Denoises from pure noise through the noise levels of a schedule.

    Args:
        num_steps: Calls N of the denoiser.
        schedule: Noise levels to visit; None is the paper's ``UniformSchedule()``.
        readout: How the policy turns the result into values: the ``center`` or ``left_edge`` of the
            chosen bin, the ``expectation`` over all bins, or the ``local`` expectation around the
            most likely bin; None is the rule's default.
        window: Bins on either side of the most likely one, for the ``local`` read-out.

    Raises:
        ValueError: If there is no step, or the read-out is none of these.
    """

    default_readout: ClassVar[Readout] = "center"

    def __init__(
        self,
        num_steps: int = 10,
        schedule: Schedule | None = None,
        readout: Readout | None = None,
        window: int = 32,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps: expected 1 or more, got {num_steps}.")
        if readout is not None and readout not in get_args(Readout):
            raise ValueError(f"readout: expected one of {get_args(Readout)}, got {readout!r}.")
        self.num_steps = num_steps
        self.schedule = schedule or UniformSchedule()
        self.readout: Readout = readout or self.default_readout
        self.window = window

    def taus(self, process: OneHotDiffusion) -> Tensor:
        """Noise levels at which the denoiser is called, ``(N,)``, increasing from 0, below 1."""
        return self.schedule.for_process(process.num_bins, process.alpha)(self.num_steps)

    def __call__(
        self,
        denoise: Denoise,
        process: OneHotDiffusion,
        shape: tuple[int, int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample tokens.

        Args:
            denoise: The posterior over tokens given noisy ones.
            process: The forward process.
            shape: ``(B, L)``.
            generator: Random generator, or one per row.
            device: Device to compute on; None is the generator's device, or the CPU.

        Returns:
            Tokens ``(B, L)`` int64 in [0, K), and the logits of the last posterior ``(B, L, K)``
            float32.
        """
        x = process.prior(shape, generator, device)
        taus = self.taus(process).to(x.device)[:, None].expand(-1, shape[0])
        logits = denoise(x, taus[0]).float()
        for tau, next_tau in pairwise(taus):
            x = self.step(process, x, logits, tau, next_tau, generator)
            logits = denoise(x, next_tau).float()
        return self.choose(logits, generator), logits

    @abstractmethod
    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        next_tau: Tensor,
        generator: Generator,
    ) -> Tensor:
        """Compute the next input of the denoiser.

        Args:
            process: The forward process.
            x: Current input, ``(B, L, K)``.
            logits: Posterior given ``x``, ``(B, L, K)``.
            tau: Current noise level, ``(B,)``.
            next_tau: Next noise level, ``(B,)``.
            generator: Random generator, or one per row.

        Returns:
            The next input, ``(B, L, K)``.
        """

    def choose(self, logits: Tensor, generator: Generator = None) -> Tensor:
        """Choose tokens ``(B, L)`` from a posterior: the most likely ones."""
        return logits.argmax(dim=-1)


class TweedieSampler(Sampler):
    """Probability-flow step through Tweedie's formula: feeds the posterior mean back.

    ``ε̂ = (x − τ α p) / (1 − τ)``, then ``x' = τ' α p + (1 − τ') (√(1 − η²) ε̂ + η ε')``. With an
    exact posterior, chunks stay consistent and modes keep their proportions, which choosing tokens
    does not achieve.

    Args:
        args: Positional arguments of :class:`Sampler`.
        eta: Fraction η in [0, 1] of fresh noise; 0 is deterministic given the first noise.
        kwargs: Keyword arguments of :class:`Sampler`.

    Raises:
        ValueError: If η lies outside [0, 1].
    """

    default_readout = "expectation"

    def __init__(self, *args: Any, eta: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: expected a number between 0 and 1, got {eta}.")
        self.eta = eta

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        next_tau: Tensor,
        generator: Generator,
    ) -> Tensor:
        """Step along the posterior mean; see ``Sampler.step``."""
        mean = process.mean(logits)
        noise = process.noise(x, mean, tau)
        if self.eta:
            fresh = process.prior(tuple(x.shape[:-1]), generator, x.device)
            noise = (1 - self.eta**2) ** 0.5 * noise + self.eta * fresh
        return torch.lerp(noise, mean, next_tau[:, None, None])


class ArgmaxSampler(Sampler):
    """Corrupts the most likely tokens again (E0, eq. 6 and 12), the paper's rule."""

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        next_tau: Tensor,
        generator: Generator,
    ) -> Tensor:
        """Corrupt the most likely tokens; see ``Sampler.step``."""
        return process.corrupt(self.choose(logits), next_tau, generator)


class CategoricalSampler(Sampler):
    """Ancestral form of the paper's rule: samples tokens, and corrupts them again.

    Args:
        args: Positional arguments of :class:`Sampler`.
        temperature: T of ``p^(1/T)``, positive; below 1 prefers the most likely tokens.
        kwargs: Keyword arguments of :class:`Sampler`.

    Raises:
        ValueError: If T is not positive.
    """

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}.")
        self.temperature = temperature

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        next_tau: Tensor,
        generator: Generator,
    ) -> Tensor:
        """Corrupt sampled tokens; see ``Sampler.step``."""
        return process.corrupt(self.choose(logits, generator), next_tau, generator)

    def choose(self, logits: Tensor, generator: Generator = None) -> Tensor:
        """Sample tokens ``(B, L)`` from a posterior."""
        return sample_tokens(logits, self.temperature, generator)


class ReleasedSampler(Sampler):
    """The rule of the released code of E0: ``α e_k̂ + ε'`` at every step, whatever τ is.

    The schedule only sets the τ that the denoiser receives; bins are read at their left edges. With
    a posterior for this noise level, samples drift to the larger of two modes; with one for the
    schedule's noise level, the noise is mistaken for evidence and either mode comes out.

    Args:
        args: Positional arguments of :class:`Sampler`.
        alpha: α of the tokens fed back; None is the process's. The released checkpoints were
            trained with 1 and are sampled with 0.1.
        decay_noise: Use the other rule of that code, ``(1 − σ) α e_k̂ + σ ε'`` with
            ``σ = √(1 − τ')``.
        kwargs: Keyword arguments of :class:`Sampler`.
    """

    default_readout = "left_edge"

    def __init__(
        self,
        *args: Any,
        alpha: float | None = None,
        decay_noise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.decay_noise = decay_noise

    def step(
        self,
        process: OneHotDiffusion,
        x: Tensor,
        logits: Tensor,
        tau: Tensor,
        next_tau: Tensor,
        generator: Generator,
    ) -> Tensor:
        """Add fresh noise to the most likely tokens; see ``Sampler.step``."""
        alpha = process.alpha if self.alpha is None else self.alpha
        signal = alpha * process.encode(self.choose(logits))
        noise = process.prior(tuple(x.shape[:-1]), generator, x.device)
        if not self.decay_noise:
            return signal + noise
        sigma = (1 - next_tau).sqrt()[:, None, None]
        return (1 - sigma) * signal + sigma * noise
