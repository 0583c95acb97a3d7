"""Inpainting of an action prefix: sampling the rest of a chunk given its first actions.

Real-time chunking (arXiv 2506.07339) executes the first actions of the new chunk while it is
computed; they are an input of sampling. Tokens of the prefix are given as ``prefix_tokens``,
``(B, L)`` int64, −1 after the prefix; numbers as ``action_prefix``, ``(B, H, D)``, NaN after it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from e0_lightning.diffusion.flow_matching import Velocity
from e0_lightning.diffusion.masked import Predict
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import Denoise


def inpaint_denoiser(
    denoise: Denoise, process: OneHotDiffusion, prefix_tokens: Tensor | None
) -> Denoise:
    """Condition a one-hot denoiser on the tokens of an action prefix.

    A step needs ``Pr(k_U | x_U, k_P)``, P the prefix and U the rest. The network gives
    ``Pr(k_U | x_U, x_P) = Σ_k Pr(k | x_U, x_P) Pr(k_U | x_U, k)``, summed over all values k of the
    prefix tokens, with a total variation error of at most ``1 − Pr(k_P | x_U, x_P)``: the
    uncertainty about the prefix. An ``x_P`` sampled at the step's own τ leaves it high in the early
    steps, which decide the mode of a chunk; :meth:`OneHotDiffusion.inpaint` removes it.

    The returned posterior of prefix tokens is certain, so that every sampler chooses them.

    Args:
        denoise: The posterior over tokens given noisy ones.
        process: The forward process.
        prefix_tokens: ``(B, L)``; None is no prefix. Rows without a prefix are denoised as without
            this function.
    """
    if prefix_tokens is None:
        return denoise
    in_prefix = (prefix_tokens >= 0)[..., None]

    def conditioned(x_tau: Tensor, tau: Tensor) -> Tensor:
        clean = process.inpaint(prefix_tokens.clamp(min=0), tau)
        return inpaint_logits(denoise(torch.where(in_prefix, clean, x_tau), tau), prefix_tokens)

    return conditioned


def inpaint_predictor(predict: Predict, prefix_tokens: Tensor | None) -> Predict:
    """Condition a predictor of masked tokens on an action prefix, whose tokens are unmasked."""
    if prefix_tokens is None:
        return predict

    def conditioned(tokens: Tensor) -> Tensor:
        inputs = torch.where(prefix_tokens < 0, tokens, prefix_tokens)
        return inpaint_logits(predict(inputs), prefix_tokens)

    return conditioned


def inpaint_velocity(velocity: Velocity, action_prefix: Tensor | None) -> Velocity:
    """Condition a velocity field on an action prefix.

    In the prefix ``v = (A − x_τ) / (1 − τ)``, which is ``A − ε`` on the path
    ``x_τ = τ A + (1 − τ) ε``: the state stays on a path of training, from any first noise ε.

    Args:
        velocity: The velocity field.
        action_prefix: ``(B, H, D)``, NaN after the prefix; None is no prefix.
    """
    if action_prefix is None:
        return velocity

    def conditioned(x_tau: Tensor, tau: Tensor) -> Tensor:
        straight = (action_prefix - x_tau) / (1 - tau[:, None, None])
        return torch.where(action_prefix.isnan(), velocity(x_tau, tau).float(), straight)

    return conditioned


def inpaint_logits(logits: Tensor, prefix_tokens: Tensor) -> Tensor:
    """Make the posterior of prefix tokens certain.

    Args:
        logits: ``(B, L, K)``.
        prefix_tokens: ``(B, L)`` int64, −1 after the prefix.

    Returns:
        ``(B, L, K)``: in the prefix 0 at its token and −∞ elsewhere, after it the given logits.
    """
    bins = torch.arange(logits.shape[-1], device=logits.device)
    certain = torch.where(bins == prefix_tokens[..., None], 0.0, -torch.inf).to(logits.dtype)
    return torch.where(prefix_tokens[..., None] < 0, logits, certain)
