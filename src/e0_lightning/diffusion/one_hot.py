"""The forward process of E0: Gaussian noise on one-hot tokens, its loss and its score."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize, one_hot

from e0_lightning.diffusion.losses import cross_entropy
from e0_lightning.diffusion.schedules import BetaTau, TauDistribution
from e0_lightning.random import Generator, sample_normal


class OneHotDiffusion:
    """Gaussian noise on smoothed one-hots, ``x_τ = τ α e_k + (1 − τ) ε`` (E0, eq. 3).

    τ = 1 is clean, τ = 0 pure noise. The network learns to classify tokens from ``x_τ``; Tweedie's
    formula turns its probabilities p into the posterior mean α p and the score. All results are
    float32, whatever the precision of the logits.

    Args:
        num_bins: Bins K.
        alpha: One-hot smooth factor α, positive.
        target_sigma: Standard deviation, in bins, of the Gaussian soft targets of the loss; 0 is
            the paper's one-hot target.
        tau_distribution: Distribution of τ in training; None is the paper's ``BetaTau()``.
        projected: Sample training noise after the first linear layer, equal in law
            (``corrupt_projected``); the layer must have more inputs than outputs. With a matched
            filter on codes it is sampled so anyway.
        code_sigma: Standard deviation, in bins, of a Gaussian of unit norm around the bin that
            replaces the one-hot ``e_k``: the coarse value of an action then stays readable under
            more noise than its bin. 0 is the paper's one-hot.
        matched_filter: Let the network see the inner products of ``x_τ`` with all codes, of norm 1
            at every τ, instead of ``x_τ`` (:meth:`network_input`).

    Raises:
        ValueError: If there are fewer than two bins, α is not positive, a standard deviation is
            negative, or ``projected`` is set in a subclass with another noise or network input.
    """

    def __init__(
        self,
        num_bins: int = 2048,
        alpha: float = 0.1,
        target_sigma: float = 0.0,
        tau_distribution: TauDistribution | None = None,
        projected: bool = False,
        code_sigma: float = 0.0,
        matched_filter: bool = False,
    ) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins: expected 2 or more, got {num_bins}.")
        if alpha <= 0:
            raise ValueError(f"alpha: expected a positive number, got {alpha}.")
        for name, sigma in (("target_sigma", target_sigma), ("code_sigma", code_sigma)):
            if sigma < 0:
                raise ValueError(f"{name}: expected 0 bins or more, got {sigma}.")
        if projected and (method := self._overridden()) is not None:
            raise ValueError(
                f"projected: expected the noise of OneHotDiffusion, got {type(self).__name__}, "
                f"which overrides `{method}`: projected noise would ignore it. Set projected to "
                "false."
            )
        self.num_bins = num_bins
        self.alpha = alpha
        self.target_sigma = target_sigma
        self.tau_distribution = (tau_distribution or BetaTau()).for_process(num_bins, alpha)
        self.projected = projected
        self.code_sigma = code_sigma
        self.matched_filter = matched_filter
        self._codes: Tensor | None = None
        self._code_basis: Tensor | None = None
        self._mean_square = 1 / num_bins

    def prior(
        self,
        shape: tuple[int, ...],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample the noise ε, ``x_τ`` at τ = 0, where sampling starts.

        Args:
            shape: ``(B, L)``.
            generator: Random generator, or one per row.
            device: Device of the result; None is the generator's device, or the CPU.

        Returns:
            ``(B, L, K)`` float32.
        """
        return sample_normal((*shape, self.num_bins), generator, device)

    def corrupt(
        self,
        tokens: Tensor,
        tau: Tensor,
        generator: Generator = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Sample ``x_τ`` given tokens.

        Args:
            tokens: ``(B, L)`` int64 in [0, K).
            tau: ``(B,)`` in [0, 1].
            generator: Random generator, or one per row.
            valid: ``(B, L)`` bool; other tokens are noise of the same level without a signal, so
                that steps past the end of an episode carry no information. None is all.

        Returns:
            ``(B, L, K)`` float32.
        """
        x_tau = self.prior(tuple(tokens.shape), generator, tokens.device)
        level = tau.to(tokens.device, torch.float32)[:, None, None]
        signal = (self.alpha * level).expand(*tokens.shape, 1)
        if valid is not None:
            signal = signal * valid[..., None]
        x_tau.mul_(1 - level)
        if self.code_sigma:
            return x_tau.addcmul_(self.encode(tokens), signal)
        return x_tau.scatter_add_(-1, tokens[..., None], signal)

    def encode(self, tokens: Tensor) -> Tensor:
        """Clean codes of tokens, of norm 1: ``(…)`` int64 to ``(…, K)`` float32."""
        if not self.code_sigma:
            return one_hot(tokens, self.num_bins).float()
        return embedding(tokens, self.codes(tokens.device))

    def codes(self, device: torch.device) -> Tensor:
        """Codes of all bins if ``code_sigma`` is not 0, ``(K, K)``, one row per bin."""
        if self._codes is None or self._codes.device != device:
            # Kept for training too, though validation may come first; equal on all devices.
            with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
                bins = torch.arange(self.num_bins, device="cpu")
                distance = (bins[:, None] - bins) / self.code_sigma
                codes = normalize(torch.exp(-0.5 * distance**2))
                self._mean_square = float((codes @ codes.T).square().mean())
                self._codes = codes.to(device)
        return self._codes

    def code_basis(self, device: torch.device) -> Tensor:
        """Factor B of the inner products of codes, ``S Sᵀ = B Bᵀ``, ``(K, R)``.

        Its columns are eigenvectors of ``S Sᵀ``, scaled by the roots of their eigenvalues; those
        below the rounding error of ``S`` in float32 are left out. Wide codes are smooth, so that
        few are left: R = 15 for σ = 0.16 K, whatever K. The output of the matched filter is
        ``S x_τ = B (τ α Bᵀ e_k + (1 − τ) z)`` with normal z of size R.
        """
        if self._code_basis is None or self._code_basis.device != device:
            with torch.inference_mode(False):
                codes = self.codes(torch.device("cpu")).double()
                values, vectors = torch.linalg.eigh(codes @ codes.T)
                kept = values > values[-1] * torch.finfo(torch.float32).eps ** 2
                basis = vectors[:, kept] * values[kept].sqrt()
                self._code_basis = basis.to(device, torch.float32)
        return self._code_basis

    def network_input(self, x_tau: Tensor, tau: Tensor) -> Tensor:
        """Precondition ``x_τ`` for the network, ``(B, L, K)``.

        With ``matched_filter`` it is ``S x_τ / √((τ α)² s + (1 − τ)²) / √K`` with the codes as rows
        of S and s the mean square of the entries of ``S Sᵀ``: of norm 1 on average at every τ, as
        EDM's ``c_in`` (arXiv 2206.00364). ``S x_τ`` is a sufficient statistic of the token,
        ``log p(k | x_τ) = log p(k) + (τ α (S x_τ)_k − ½ τ² α²) / (1 − τ)² + const``, so that only
        noise is removed.

        Args:
            x_tau: ``(B, L, K)``.
            tau: ``(B,)`` in [0, 1].
        """
        if not self.matched_filter:
            return x_tau
        with torch.autocast(x_tau.device.type, enabled=False):
            if self.code_sigma:
                x_tau = x_tau.float() @ self.codes(x_tau.device).T
            return x_tau / self.input_norm(tau.to(x_tau.device))

    def input_norm(self, tau: Tensor) -> Tensor:
        """Mean norm of the matched filter's output at τ ``(B,)``, ``(B, 1, 1)``."""
        if self.code_sigma:
            self.codes(tau.device)  # and the mean square of their inner products
        level = tau.float()[:, None, None]
        square = (level * self.alpha) ** 2 * self._mean_square + (1 - level) ** 2
        norm: Tensor = square.sqrt() * self.num_bins**0.5
        return norm

    def inpaint(self, tokens: Tensor, tau: Tensor) -> Tensor:
        """Input for tokens of an action prefix: their code at the usual norm, without noise.

        ``x_τ = τ α e_k + (1 − τ) √K e_k``: noise has a norm of about √K, and here all of it points
        to the token's own bin. The posterior depends on the evidence ``τ α x_τ / (1 − τ)²``. Under
        plain noise the own bin exceeds another by ``r ± √(2 r)``, ``√r = τ α / (1 − τ)``, which is
        almost nothing in early steps; here by ``r + √(r K)``, which exceeds ``ln K`` from
        ``r = (ln K)² / K`` on.

        Args:
            tokens: ``(B, L)`` int64 in [0, K).
            tau: ``(B,)`` in [0, 1].

        Returns:
            ``(B, L, K)`` float32.
        """
        level = tau.to(tokens.device, torch.float32)[:, None, None]
        norm: Tensor = level * self.alpha + (1 - level) * self.num_bins**0.5
        return self.encode(tokens) * norm

    def mean(self, logits: Tensor) -> Tensor:
        """Posterior mean of the signal (Tweedie), ``(B, L, K)``: ``α p``, or ``α Σ p_k code_k``."""
        probabilities = logits.float().softmax(dim=-1)
        if self.code_sigma:
            with torch.autocast(logits.device.type, enabled=False):
                probabilities = probabilities @ self.codes(logits.device)
        return self.alpha * probabilities

    def noise(self, x_tau: Tensor, mean: Tensor, tau: Tensor) -> Tensor:
        """Posterior mean of ε, ``(x_τ − τ · mean) / (1 − τ)``.

        Args:
            x_tau: ``(B, L, K)``.
            mean: Posterior mean of the signal, ``(B, L, K)``.
            tau: ``(B,)``, below 1.

        Returns:
            ``(B, L, K)``.
        """
        level = tau[:, None, None]
        return (x_tau - level * mean) / (1 - level)

    def score(self, x_tau: Tensor, logits: Tensor, tau: Tensor) -> Tensor:
        """Gradient of the log density at ``x_τ``, ``(τ α p − x_τ) / (1 − τ)²`` (Tweedie).

        Args:
            x_tau: ``(B, L, K)``.
            logits: ``(B, L, K)``, of the posterior over tokens.
            tau: ``(B,)``, below 1.

        Returns:
            ``(B, L, K)``.
        """
        return -self.noise(x_tau, self.mean(logits), tau) / (1 - tau[:, None, None])

    def loss(
        self, logits: Tensor, tokens: Tensor, valid: Tensor, offset: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy over valid tokens, in nats; see `losses.cross_entropy`."""
        return cross_entropy(logits, tokens, valid, self.target_sigma, offset)

    @property
    def samples_projected(self) -> bool:
        """Whether training samples ``x_τ`` after the first layer.

        It does for ``projected``, and for a matched filter on codes, where that takes less time and
        memory at any size, unless a subclass has another noise or network input.
        """
        is_filtered = self.code_sigma > 0 and self.matched_filter
        return self.projected or (is_filtered and self._overridden() is None)

    def _overridden(self) -> str | None:
        """The first method of a subclass that projected noise would ignore."""
        for name in ("prior", "corrupt", "network_input"):
            if getattr(type(self), name) is not getattr(OneHotDiffusion, name):
                return name
        return None
