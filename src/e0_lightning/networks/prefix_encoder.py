"""Encoding of an observation for the action expert: keys and values of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.positions import sine_cosine
from e0_lightning.networks.prompt import Prompt
from e0_lightning.networks.vision import RelativeSphericalEmbedding, VisionEncoder
from e0_lightning.types import Observation, PolicySpec

AGE_PERIODS = (4.0, 100.0)
"""Shortest and longest period of the embedding of ages, control steps."""


@dataclass(frozen=True)
class Prefix:
    """An encoded observation, computed once and used by every denoising step.

    Args:
        keys: One ``(B, kv_heads, P, head_dim)`` per layer, rotary positions applied.
        values: The same shapes.
        mask: ``(B, P)`` bool, false at padding.
        rope_theta: Base of the keys' rotary positions; None if layers differ in it.
        state: Normalized state ``(B, Q)`` that the action expert embeds; None if it has no token
            of its own there.
        paired: Whether the tensors have 2B rows: after B observations the same with the empty
            instruction, for guidance.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    rope_theta: float | None = None
    state: Tensor | None = None
    paired: bool = False

    @property
    def batch_size(self) -> int:
        """Observations B."""
        return len(self.mask) // (2 if self.paired else 1)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each observation without padding, ``(B,)``."""
        return self.mask.sum(dim=-1)

    def repeat(self, times: int) -> Prefix:
        """The observations one after another, and again, ``times · B`` in all."""
        if times == 1:
            return self

        def repeated(tensor: Tensor) -> Tensor:
            return torch.cat([tensor] * times)  # backward faster than `Tensor.repeat`

        keys, values = (tuple(map(repeated, per_layer)) for per_layer in (self.keys, self.values))
        state = None if self.state is None else repeated(self.state)
        return Prefix(keys, values, repeated(self.mask), self.rope_theta, state)


class PrefixEncoder(nn.Module):
    """Encodes images, instruction and state to a :class:`Prefix` with bidirectional attention.

    The order is the paper's: the tokens of each view in the order of the observation, the
    instruction, the state. The prefix does not depend on actions or noise. Images and states of
    earlier steps, oldest first, come before all images and before the state; sines and cosines of
    their age are added to their tokens. No token attends to images that ``image_mask`` masks.

    Args:
        vision: Image encoder, shared by all views; None for policies of the state alone.
        language: Any decoder; its layers process the whole prefix.
        state_dim: State dimensions Q; 0 leaves the state out.
        binarize_state_at_inference: State part to dimensions that are replaced, outside of
            training, by -1 or 1, the half of their range. For readings that pass through most
            values only briefly in demonstrations, such as the width of a closing gripper: an object
            that is held askew keeps them there, and a policy would wait for the closing to end.
        state_token: Where the state is a token: last in the ``prefix``, or first in the ``suffix``,
            before the action tokens (π0); None for a state in the prompt alone (π0.5).
        prompt: Text for the language model; None is the instruction as it is.

    Raises:
        ValueError: If ``state_dim`` is None, or the state is neither a token nor in the prompt.
    """

    def __init__(
        self,
        vision: VisionEncoder | None,
        language: LanguageModel,
        state_dim: int | None = None,
        binarize_state_at_inference: dict[str, list[int]] | None = None,
        state_token: Literal["prefix", "suffix"] | None = "prefix",
        prompt: Prompt | None = None,
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
        in_prompt = prompt is not None and prompt.has_state
        if state_dim and state_token is None and not in_prompt:
            raise ValueError(
                "encoder.state_token: expected prefix or suffix, got null for a prompt without "
                "{state}. Choose one, or set encoder.state_dim to 0 for a policy without state."
            )
        self.state_token, self.prompt = state_token, prompt
        is_in_prefix = state_dim and state_token == "prefix"
        self.state = nn.Linear(state_dim, language.width) if is_in_prefix else None

    @property
    def suffix_state_dim(self) -> int:
        """Dimensions of the state that the action expert embeds; 0 if it embeds none."""
        return self.state_dim if self.state_token == "suffix" else 0

    def check_lengths(self, instructions: Sequence[str]) -> None:
        """Check that the language model accepts the prompts of instructions.

        Raises:
            ValueError: If a prompt is longer than its ``max_tokens``.
        """
        # Indices of three digits, the longest.
        states = torch.zeros(len(instructions), self.state_dim)
        self.language.check_lengths(self._texts(list(instructions), states))

    def resolve_state(self, spec: PolicySpec) -> Self:
        """Look up the binarized state dimensions, check the crops, and return this object.

        Raises:
            ValueError: If the spec has no such state part or dimension, a crop is of a view that it
                does not have, it has views but there is no image encoder, or earlier states but no
                tokens for them.
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
        if spec.n_obs_steps > 1 and self.state_dim and self.state_token != "prefix":
            raise ValueError(
                f"encoder.state_token: expected prefix for n_obs_steps {spec.n_obs_steps}, got "
                f"{self.state_token}. Set data.n_obs_steps to 1: only the prefix has tokens of "
                "earlier states."
            )
        return self

    def forward(self, observation: Observation, paired: bool = False) -> Prefix:
        """Encode observations whose state ``(B, Q)`` is normalized.

        Args:
            observation: The observations.
            paired: Append the same observations with the empty instruction, as rows B to 2B; images
                are encoded once.

        Returns:
            Prefix of ``P = n_obs_steps · (views · image tokens + 1) + prompt`` tokens, without the
            1 where the state is no token of the prefix.
        """
        device = next(self.parameters()).device
        views = [*self._past_images(observation).items(), *self._images(observation).items()]

        def rows(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor]) if paired else tensor

        state, empty = rows(self._binarize(observation["state"])), [""] * len(observation["state"])
        texts = self._texts([*observation["instruction"], *(empty if paired else [])], state)
        text, text_mask = self.language.embed(texts, device)
        states, known = self._states(observation), observation.get("image_mask", {})
        masks = [_mask(tokens, known.get(view)) for view, tokens in views]
        mask = torch.cat([*map(rows, masks), text_mask, *map(rows, map(_mask, states))], dim=1)
        parts = [*(rows(tokens) for _, tokens in views), text, *map(rows, states)]
        embeddings = torch.cat([part.to(text.dtype) for part in parts], dim=1)
        keys, values = self.language(embeddings, mask)
        suffix_state = state if self.suffix_state_dim else None
        return Prefix(keys, values, mask, self.language.rope_theta, suffix_state, paired)

    def _texts(self, instructions: list[str], state: Tensor) -> list[str]:
        return instructions if self.prompt is None else self.prompt(instructions, state)

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
        binarized[..., indices] = torch.where(state[..., indices] > 0, 1.0, -1.0)
        return binarized

    def _images(self, observation: Observation) -> dict[str, Tensor]:
        """View to its tokens, ``(B, T, W)``."""
        if self.vision is None:
            return {}
        images = observation["images"]
        encoded = {view: self.vision(frames, view) for view, frames in images.items()}
        return {view: self._project(each, view, observation) for view, each in encoded.items()}

    def _past_images(self, observation: Observation) -> dict[str, Tensor]:
        """View to its tokens at earlier steps, ``(B, m · T, W)``; none without a history."""
        if self.vision is None or "history" not in observation:
            return {}
        tokens = {}
        for view in observation["images"]:
            frames = observation["history"]["images"][view]
            features = self.vision(frames.flatten(0, 1), view).unflatten(0, frames.shape[:2])
            projected = self._project(features, view, observation)
            tokens[view] = (projected + _ages(projected)[:, None]).flatten(1, 2)
        return tokens

    def _project(self, features: Tensor, view: str, observation: Observation) -> Tensor:
        """Tokens ``(B, …, W)`` of features, with the displacement of the view's camera."""
        tokens: Tensor = self.projector(features)
        offset = observation.get("view_offset", {}).get(view, tokens.new_zeros(len(tokens), 3))
        embedded: Tensor = self.view_offset(offset.to(tokens.dtype))
        return tokens + embedded.view(len(tokens), *(1,) * (tokens.ndim - 2), -1)

    def _states(self, observation: Observation) -> list[Tensor]:
        """Tokens of earlier states, ``(B, m, W)``, if any, and of the state, ``(B, 1, W)``."""
        if self.state is None:
            return []
        current = self.state(self._binarize(observation["state"])).unsqueeze(1)
        if "history" not in observation:
            return [current]
        past: Tensor = self.state(self._binarize(observation["history"]["state"]))
        return [past + _ages(past), current]


def _ages(tokens: Tensor) -> Tensor:
    """Embeddings ``(m, W)`` of the ages m, …, 1 of tokens ``(B, m, …, W)`` of earlier steps."""
    ages = torch.arange(tokens.shape[1], 0, -1, device=tokens.device)
    return sine_cosine(ages, tokens.shape[-1], *AGE_PERIODS).to(tokens.dtype)


def _mask(tokens: Tensor, rows: Tensor | None = None) -> Tensor:
    """Mask ``(B, T)`` of tokens ``(B, T, W)``, false for rows ``(B,)`` that are; None: all true."""
    if rows is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return rows[:, None].expand(tokens.shape[:2])
