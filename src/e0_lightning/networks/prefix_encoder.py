"""Encoding of an observation for the action expert: keys and values of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.vision import RelativeSphericalEmbedding, VisionEncoder
from e0_lightning.types import Observation, PolicySpec


@dataclass(frozen=True)
class Prefix:
    """An encoded observation, computed once and used by every denoising step.

    Args:
        keys: One ``(B, kv_heads, P, head_dim)`` per layer, rotary positions applied.
        values: The same shapes.
        mask: ``(B, P)`` bool, false at padding.
        rope_theta: Base of the keys' rotary positions; None if layers differ in it.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    rope_theta: float | None = None

    @property
    def batch_size(self) -> int:
        """Observations B."""
        return len(self.mask)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each observation without padding, ``(B,)``."""
        return self.mask.sum(dim=-1)


class PrefixEncoder(nn.Module):
    """Encodes images, instruction and state to a :class:`Prefix` with bidirectional attention.

    The order is the paper's: the tokens of each view in the order of the observation, the
    instruction, the state. The prefix does not depend on actions or noise.

    Args:
        vision: Image encoder, shared by all views; None for policies of the state alone.
        language: Any decoder; its layers process the whole prefix.
        state_dim: State dimensions Q; 0 leaves the state out.
        binarize_state_at_inference: State part to dimensions that are replaced, outside of
            training, by -1 or 1, the half of their range. For readings that pass through most
            values only briefly in demonstrations, such as the width of a closing gripper: an object
            that is held askew keeps them there, and a policy would wait for the closing to end.

    Raises:
        ValueError: If ``state_dim`` is None.
    """

    def __init__(
        self,
        vision: VisionEncoder | None,
        language: LanguageModel,
        state_dim: int | None = None,
        binarize_state_at_inference: dict[str, list[int]] | None = None,
    ) -> None:
        super().__init__()
        if state_dim is None:
            raise ValueError(
                "encoder.state_dim: expected a number of dimensions, got None. Set it to those of "
                "the data's state parts together, or to 0 for a policy without state."
            )
        self.binarize_state_at_inference = dict(binarize_state_at_inference or {})
        self._binary_indices: list[int] | None = None if binarize_state_at_inference else []
        self.vision = vision
        self.language = language
        self.state_dim = state_dim
        if vision is not None:
            self.projector = nn.Linear(vision.width, language.width)
            self.view_offset = RelativeSphericalEmbedding(language.width)
        self.state = nn.Linear(state_dim, language.width) if state_dim else None

    def resolve_state(self, spec: PolicySpec) -> Self:
        """Look up the binarized state dimensions, check the crops, and return this object.

        Raises:
            ValueError: If the spec has no such state part or dimension, a crop is of a view that it
                does not have, or it has views but there is no image encoder.
        """
        self._binary_indices = spec.state_indices(
            self.binarize_state_at_inference, "encoder.binarize_state_at_inference"
        )
        if self.vision is not None:
            self.vision.check_views(spec.views)
        elif spec.views:
            raise ValueError(
                f"encoder.vision: expected an image encoder for the views {list(spec.views)}, got "
                "none. Configure one, or set data.views to []."
            )
        return self

    def forward(self, observation: Observation) -> Prefix:
        """Encode observations whose state ``(B, Q)`` is normalized.

        Returns:
            Prefix of ``P = views · image tokens + instruction + 1`` tokens.
        """
        device = next(self.parameters()).device
        images = self._images(observation)
        text, text_mask = self.language.embed(observation["instruction"], device)
        parts, masks = [*images, text], [_all_true(image) for image in images] + [text_mask]
        if self.state is not None:
            state = self.state(self._binarize(observation["state"])).unsqueeze(1)
            parts, masks = [*parts, state], [*masks, _all_true(state)]
        mask = torch.cat(masks, dim=1)
        embeddings = torch.cat([part.to(text.dtype) for part in parts], dim=1)
        keys, values = self.language(embeddings, mask)
        return Prefix(keys, values, mask, self.language.rope_theta)

    def _binarize(self, state: Tensor) -> Tensor:
        """The normalized state; outside of training with its binary dimensions at -1 or 1."""
        if self.training or self._binary_indices == []:
            return state
        if self._binary_indices is None:
            raise ValueError(
                "encoder.binarize_state_at_inference: the state parts are not resolved yet. Call "
                "encoder.resolve_state(spec) first."
            )
        binarized = state.clone()
        indices = self._binary_indices
        binarized[:, indices] = torch.where(state[:, indices] > 0, 1.0, -1.0)
        return binarized

    def _images(self, observation: Observation) -> list[Tensor]:
        """Tokens of each view, ``(B, T, W)``."""
        if self.vision is None:
            return []
        views = list(observation["images"])
        batch = len(observation["instruction"])
        by_view = [self.vision(observation["images"][view], view) for view in views]
        offsets = observation.get("view_offset", {})
        tokens = []
        for view, image in zip(views, by_view, strict=True):
            projected: Tensor = self.projector(image)
            offset = offsets.get(view, projected.new_zeros(batch, 3))
            tokens.append(projected + self.view_offset(offset.to(projected.dtype)).unsqueeze(1))
        return tokens


def _all_true(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
