"""Chunks that begin as they must: denoisers that are told what is decided already."""

from __future__ import annotations

import torch
from torch import Tensor

from e0_lightning.diffusion.flow_matching import Velocity
from e0_lightning.diffusion.masked import Predict
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import Denoise


def inpaint(denoise: Denoise, process: OneHotDiffusion, known: Tensor | None) -> Denoise:
    """A denoiser of the tokens that are left, given those that are known.

    What a step needs is ``Pr(k_U | x_U, k_K)``, U unknown and K known. The network gives
    ``Pr(k_U | x_U, x_K) = Σ_k Pr(k | x_U, x_K) Pr(k_U | x_U, k)``, the sum over all values k of the
    known tokens, so that it errs by at most ``1 − Pr(k_K | x_U, x_K)`` in total variation: by its
    doubt about what is known. An ``x_K`` that is drawn from the true tokens at the step's own τ
    leaves that doubt where it matters, in the early steps that decide which way a chunk goes;
    :meth:`OneHotDiffusion.reveal` takes it away.

    The known tokens' own posterior is certain, hence any rule chooses them.

    Args:
        denoise: The posterior over tokens given noisy ones.
        process: The forward process.
        known: ``(B, L)`` int64, the known tokens and −1 elsewhere; None is none at all. Chunks
            without a known token are denoised as if this function were not there.
    """
    if known is None:
        return denoise
    is_known = (known >= 0)[..., None]

    def informed(x_tau: Tensor, tau: Tensor) -> Tensor:
        revealed = process.reveal(known.clamp(min=0), tau)
        return decide(denoise(torch.where(is_known, revealed, x_tau), tau), known)

    return informed


def unmask(predict: Predict, known: Tensor | None) -> Predict:
    """What :func:`inpaint` does, for a network that sees tokens or masks: the known are bare."""
    if known is None:
        return predict

    def informed(tokens: Tensor) -> Tensor:
        return decide(predict(torch.where(known < 0, tokens, known)), known)

    return informed


def steer(velocity: Velocity, ends: Tensor | None) -> Velocity:
    """A velocity whose known numbers run straight to where they must end.

    ``v = (A − x_τ) / (1 − τ)``, which is ``A − ε`` on the path ``x_τ = τ A + (1 − τ) ε``: they stay
    on the path that training shows, whatever first noise ε they started from.

    Args:
        velocity: The learned field.
        ends: ``(B, H, D)``, the known numbers A and NaN elsewhere; None is none at all.
    """
    if ends is None:
        return velocity

    def informed(x_tau: Tensor, tau: Tensor) -> Tensor:
        straight = (ends - x_tau) / (1 - tau[:, None, None])
        return torch.where(ends.isnan(), velocity(x_tau, tau).float(), straight)

    return informed


def decide(logits: Tensor, known: Tensor) -> Tensor:
    """Leave no doubt about known tokens.

    Args:
        logits: ``(B, L, K)``.
        known: ``(B, L)`` int64, −1 where not known.

    Returns:
        ``(B, L, K)``: 0 at the known token and −∞ at the others, the given logits where not known.
    """
    bins = torch.arange(logits.shape[-1], device=logits.device)
    certain = torch.where(bins == known[..., None], 0.0, -torch.inf).to(logits.dtype)
    return torch.where(known[..., None] < 0, logits, certain)
