"""The forward process of E0, Gaussian noise on one-hot tokens, with its loss and its score."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize, one_hot

from e0_lightning.diffusion.losses import masked_mean
from e0_lightning.diffusion.schedules import BetaTau, TauDistribution
from e0_lightning.random import sample_normal


class OneHotDiffusion:
    """Gaussian noise on smoothed one-hots, ``x_τ = τ α e_k + (1 − τ) ε`` (E0, eq. 3).

    τ = 1 is clean, τ = 0 pure noise. A network that classifies tokens from ``x_τ`` is all there is
    to learn: Tweedie's formula turns its probabilities p into the posterior mean α p and the score.
    All of it is computed in float32, whatever the precision of the logits.

    Args:
        num_bins: Bins K.
        alpha: One-hot smooth factor α, positive.
        target_sigma: Standard deviation, in bins, of a Gaussian over the neighbours of the true bin that
            the loss takes for its target; 0 is the paper's one-hot target.
        tau_distribution: How training draws τ; None is the paper's ``BetaTau()``.
        projected: Draw training noise as the first layer sees it, equal in law
            (``corrupt_projected``); takes more bins, of all one-hots of a token, than its width.
        code_sigma: Standard deviation, in bins, of a Gaussian over the bin and its neighbours, of unit
            length, that stands for a token in place of its one-hot ``e_k``: noise then hides the
            coarse place of an action later than its bin. 0 is the paper's one-hot.

    Raises:
        ValueError: If there are fewer than two bins, α is not positive, or a deviation is negative.
    """

    def __init__(
        self,
        num_bins: int = 2048,
        alpha: float = 0.1,
        target_sigma: float = 0.0,
        tau_distribution: TauDistribution | None = None,
        projected: bool = False,
        code_sigma: float = 0.0,
    ) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins is {num_bins}; tokens need 2 bins or more.")
        if alpha <= 0:
            raise ValueError(f"alpha is {alpha}; the signal needs a positive factor.")
        if target_sigma < 0:
            raise ValueError(f"target_sigma is {target_sigma}; give a deviation of 0 bins or more.")
        if code_sigma < 0:
            raise ValueError(f"code_sigma is {code_sigma}; give a deviation of 0 bins or more.")
        self.num_bins = num_bins
        self.alpha = alpha
        self.target_sigma = target_sigma
        self.tau_distribution = tau_distribution or BetaTau()
        self.projected = projected
        self.code_sigma = code_sigma

    def corrupt(
        self,
        tokens: Tensor,
        tau: Tensor,
        generator: torch.Generator | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Draw ``x_τ`` for given tokens.

        Args:
            tokens: ``(B, L)`` int64 in [0, K).
            tau: ``(B,)`` in [0, 1].
            generator: What decides the noise; None is torch's own.
            valid: ``(B, L)`` bool; the others are noise of the same level without a signal, so that
                what lies past the end of an episode tells a network nothing. None is all.

        Returns:
            ``(B, L, K)`` float32.
        """
        x_tau = sample_normal((*tokens.shape, self.num_bins), generator, tokens.device)
        level = tau.to(tokens.device, torch.float32)[:, None, None]
        signal = (self.alpha * level).expand(*tokens.shape, 1)
        if valid is not None:
            signal = signal * valid[..., None]
        x_tau.mul_(1 - level)
        if self.code_sigma:
            return x_tau.addcmul_(self.encode(tokens), signal)
        return x_tau.scatter_add_(-1, tokens[..., None], signal)

    def encode(self, tokens: Tensor) -> Tensor:
        """What stands for a token, clean and of length 1: ``(…)`` int64 to ``(…, K)`` float32."""
        if not self.code_sigma:
            return one_hot(tokens, self.num_bins).float()
        return embedding(tokens, self.codes(tokens.device))

    def codes(self, device: torch.device) -> Tensor:
        """What stands for each bin if ``code_sigma`` is not 0, ``(K, K)``, a row for a bin."""
        bins = torch.arange(self.num_bins, device=device)
        distance = (bins[:, None] - bins) / self.code_sigma
        codes: Tensor = normalize(torch.exp(-0.5 * distance**2))
        return codes

    def reveal(self, tokens: Tensor, tau: Tensor) -> Tensor:
        """Give tokens that are known for certain the clearest ``x_τ`` of the usual length.

        ``x_τ = τ α e_k + (1 − τ) √K e_k``: noise is about √K long, and here all of it points to the
        token's own bin. A posterior knows tokens by their evidence ``τ α x_τ / (1 − τ)²`` alone,
        and that of the own bin exceeds that of another by ``r ± √(2 r)`` under plain noise,
        ``√r = τ α / (1 − τ)``: in early steps, where a chunk takes its way, by nothing much. Here
        it does by ``r + √(r K)``, which from ``r = (ln K)² / K`` on is more than the ``ln K`` nats
        of a token that could be any.

        Args:
            tokens: ``(B, L)`` int64 in [0, K).
            tau: ``(B,)`` in [0, 1].

        Returns:
            ``(B, L, K)`` float32.
        """
        level = tau.to(tokens.device, torch.float32)[:, None, None]
        length: Tensor = level * self.alpha + (1 - level) * self.num_bins**0.5
        return self.encode(tokens) * length

    def mean(self, logits: Tensor) -> Tensor:
        """Posterior mean of ``α e_k`` (Tweedie), ``(B, L, K)``: α times the probabilities.

        With codes, it is the mean of α times the codes.
        """
        probabilities = logits.float().softmax(dim=-1)
        if self.code_sigma:
            with torch.autocast(logits.device.type, enabled=False):
                probabilities = probabilities @ self.codes(logits.device)
        return self.alpha * probabilities

    def noise(self, x_tau: Tensor, mean: Tensor, tau: Tensor) -> Tensor:
        """Posterior mean of ε, ``(x_τ − τ · mean) / (1 − τ)``.

        Args:
            x_tau: ``(B, L, K)``.
            mean: Posterior mean of ``α e_k``, ``(B, L, K)``.
            tau: ``(B,)``, below 1.

        Returns:
            ``(B, L, K)``.
        """
        level = tau[:, None, None]
        return (x_tau - level * mean) / (1 - level)

    def score(self, x_tau: Tensor, logits: Tensor, tau: Tensor) -> Tensor:
        """Gradient of the log tau_distribution at ``x_τ``, ``(τ α p − x_τ) / (1 − τ)²`` (Tweedie).

        Args:
            x_tau: ``(B, L, K)``.
            logits: ``(B, L, K)``, of the posterior over tokens.
            tau: ``(B,)``, below 1.

        Returns:
            ``(B, L, K)``.
        """
        return -self.noise(x_tau, self.mean(logits), tau) / (1 - tau[:, None, None])

    def loss(self, logits: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
        """Mean cross-entropy over valid tokens, in nats.

        Args:
            logits: ``(B, L, K)``.
            tokens: ``(B, L)`` int64 in [0, K); anything where not valid.
            valid: ``(B, L)`` bool.

        Returns:
            Scalar; 0 where nothing is valid.
        """
        reach = math.ceil(4 * self.target_sigma)
        offsets = torch.arange(-reach, reach + 1, device=logits.device)
        # Masked tokens may hold anything; without a bin, their weights would divide by zero.
        bins = tokens.clamp(0, self.num_bins - 1)[..., None] + offsets
        weights = torch.exp(-0.5 * (offsets / max(self.target_sigma, 1e-6)) ** 2)
        weights = torch.where((bins >= 0) & (bins < self.num_bins), weights, 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        # Gathering the few bins that carry weight spares a target as large as the logits.
        chosen = logits.float().log_softmax(dim=-1).gather(-1, bins.clamp(0, self.num_bins - 1))
        entropy = -(weights * chosen).sum(dim=-1)
        return masked_mean(entropy, valid)
