"""What an observation looks like to the action expert: keys and values of every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.vision import RelativeSphericalEmbedding, VisionEncoder
from e0_lightning.types import Observation


@dataclass(frozen=True)
class Prefix:
    """An encoded observation; computed once, read by every denoising step.

    Args:
        keys: One ``(B, kv_heads, P, head_dim)`` a layer, rotary positions applied.
        values: The same shapes.
        mask: ``(B, P)`` bool, false at padding.
        rope_theta: Base of the keys' rotary positions; None where it is not one for all.
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
        """Tokens of each observation without padding, ``(B,)``."""
        return self.mask.sum(dim=-1)


class PrefixEncoder(nn.Module):
    """Images, instruction and state to a :class:`Prefix`, attending to each other only.

    The order is the paper's: the tokens of each view in the order of the observation, the
    instruction, the state. Nothing in it depends on actions or noise.

    Args:
        vision: Encoder shared by all views.
        language: Any decoder; its layers carry the whole prefix.
        state_dim: State dimensions Q; 0 leaves the state out.
        binarize_state_at_inference: State dimensions of which no more is read, outside training, than the half of
            their range they are in. Demonstrations may hold most values of a reading for a moment
            only, such as the widths of closing fingers; a cube held askew keeps them there, and a
            network would wait for the closing to end.

    Raises:
        ValueError: If a switch is no dimension of the state.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        language: LanguageModel,
        state_dim: int,
        binarize_state_at_inference: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.binarize_state_at_inference = list(binarize_state_at_inference or [])
        if not set(self.binarize_state_at_inference) <= set(range(state_dim)):
            raise ValueError(
                f"binarize_state_at_inference: found {self.binarize_state_at_inference}, but the state has {state_dim} dimensions. "
                "Name some of them, counted from 0."
            )
        self.vision = vision
        self.language = language
        self.state_dim = state_dim
        self.projector = nn.Linear(vision.width, language.width)
        self.view_offset = RelativeSphericalEmbedding(language.width)
        self.state = nn.Linear(state_dim, language.width) if state_dim else None

    def forward(self, observation: Observation) -> Prefix:
        """Encode observations whose state ``(B, Q)`` is normalized.

        Returns:
            Prefix of ``P = views · image tokens + instruction + 1`` tokens.
        """
        device = self.projector.weight.device
        images = self._images(observation)
        text, text_mask = self.language.embed(observation["instruction"], device)
        parts, masks = [*images, text], [_all_true(image) for image in images] + [text_mask]
        if self.state is not None:
            state = self.state(self._switched(observation["state"])).unsqueeze(1)
            parts, masks = [*parts, state], [*masks, _all_true(state)]
        mask = torch.cat(masks, dim=1)
        embeddings = torch.cat([part.to(text.dtype) for part in parts], dim=1)
        keys, values = self.language(embeddings, mask)
        return Prefix(keys, values, mask, self.language.rope_theta)

    def _switched(self, state: Tensor) -> Tensor:
        """The normalized state; outside training -1 or 1 where only one of two is asked."""
        if self.training:
            return state
        switched = state.clone()
        switched[:, self.binarize_state_at_inference] = torch.where(
            state[:, self.binarize_state_at_inference] > 0, 1.0, -1.0
        )
        return switched

    def _images(self, observation: Observation) -> list[Tensor]:
        """Tokens of each view, ``(B, T, W)``."""
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
