"""Observations of clients to observations of a policy: a key map applied for a spec."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from e0_lightning.key_map import ClientLayout, Key, KeyMap, Keys, as_list, keys_for, parse_key
from e0_lightning.serving.images import count_pixels, to_frame
from e0_lightning.serving.limits import MAX_INSTRUCTION, MAX_MAGNITUDE, ServerLimits
from e0_lightning.serving.message import find, has
from e0_lightning.types import History, Observation, PolicySpec

Floats = np.ndarray[Any, np.dtype[np.float32]]

ACTION_PREFIX: Final = "action_prefix"
"""Key of the action prefix, whatever the key map."""

HISTORY: Final = "history"
"""Key of the earlier observations, whatever the key map: a list of maps with the keys of the
current one, oldest first, without the instruction."""


class StateSource(NamedTuple):
    """Where a client sends a part of the state."""

    keys: list[Key]
    lengths: dict[str, int]
    """Numbers that the client sends under each path."""


class ObservationParser:
    """Converts observations of clients with one key map for a policy with one spec.

    Args:
        key_map: Keys of the client.
        spec: The policy's spec.
        instruction: Instruction for requests without one; None refuses them.
        n_action_steps: Steps of a chunk that the client gets; None for as many as it accepts.
        max_pixels: Most pixels of an image.

    Raises:
        ValueError: If the key map lacks something that the spec needs, or the client expects
            other chunks.
    """

    def __init__(
        self,
        key_map: KeyMap,
        spec: PolicySpec,
        instruction: str | None = None,
        n_action_steps: int | None = None,
        max_pixels: int = ServerLimits.max_pixels,
    ) -> None:
        self.key_map = key_map
        self.spec = spec
        self.instruction = instruction
        self.max_pixels = max_pixels
        self.images = {view: keys_for(key_map.images, view, "view") for view in spec.views}
        self.state = self._state_sources()
        self.inverted = np.repeat(
            [part in key_map.client.inverted for part in spec.state], [*spec.state.values()]
        ).astype(bool)
        self.n_action_steps = self._check_chunks(n_action_steps)

    def parse(self, message: Any) -> Observation:
        """Convert one observation.

        Returns:
            Images ``(1, 3, h, w)`` uint8, state ``(1, Q)`` float32, one instruction.

        Raises:
            ValueError: If something is missing or does not fit the spec, naming the key, what is
                expected and what it got.
        """
        if not isinstance(message, dict):
            raise ValueError(f"expected a map of observations, got a {type(message).__name__}.")
        # Images last: they cost most, and a message with another fault is refused without them.
        instruction, state = self._instruction(message), self._state(message)
        images = self._images(message)
        observation = Observation(
            images={view: frame[None] for view, frame in images.items()},
            instruction=[instruction],
            state=state[None],
        )
        if self.spec.n_obs_steps > 1:
            past = [(self._images(each), self._state(each)) for each in self._earlier(message)]
            # The first observation of an episode is repeated.
            first = past[0] if past else (images, state)
            past = [first] * (self.spec.n_obs_steps - 1 - len(past)) + past
            observation["history"] = History(
                images={v: torch.stack([frames[v] for frames, _ in past])[None] for v in images},
                state=torch.stack([values for _, values in past])[None],
            )
        if ACTION_PREFIX in message:
            prefix = self._action_prefix(message[ACTION_PREFIX])
            observation["action_prefix"] = [torch.from_numpy(prefix)]
        return observation

    def count_pixels(self, message: Any) -> int:
        """Pixels that :meth:`parse` has to decode or resize, from the headers of the images."""
        total = 0
        earlier = message.get(HISTORY) if isinstance(message, dict) else None
        listed = earlier[: self.spec.n_obs_steps - 1] if isinstance(earlier, list) else []
        for each in [message, *listed]:
            for keys in self.images.values() if isinstance(each, dict) else ():
                with suppress(ValueError):  # `parse` reports it by key
                    total += count_pixels(find(each, keys, "an image")[1])
        return total

    def describe(self) -> dict[str, Any]:
        """Metadata for clients: the keys and shapes that this server expects."""
        views, earlier = self.spec.views, self.spec.n_obs_steps - 1
        return {
            "images": {
                keys[0]: [views[v].height, views[v].width, 3] for v, keys in self.images.items()
            },
            "state": dict(next(iter(source.lengths.items())) for source in self.state),
            "prompt": as_list(self.key_map.instruction)[0],
            "actions": [self.n_action_steps, self.spec.action_dim],
            "control_mode": self.spec.control_mode,
            ACTION_PREFIX: [self.spec.horizon - 1, self.spec.action_dim],
            **({HISTORY: earlier} if earlier else {}),
        }

    def _images(self, message: dict[Any, Any]) -> dict[str, Tensor]:
        """View to its frame, ``(3, h, w)`` uint8."""
        images = {}
        for view, keys in self.images.items():
            key, image = find(message, keys, f"the image of view {view!r}")
            frame = to_frame(image, self.spec.views[view], key, self.max_pixels)
            images[view] = _upright(frame, view, self.key_map.client)
        return images

    def _state(self, message: dict[Any, Any]) -> Tensor:
        """The state parts of the spec, ``(Q,)`` float32."""
        parts = [self._vector(message, source) for source in self.state]
        state = np.concatenate([np.zeros(0, np.float32), *parts])
        state[self.inverted] = 1 - state[self.inverted]
        return torch.from_numpy(state)

    def _earlier(self, message: dict[Any, Any]) -> list[dict[Any, Any]]:
        """The observations before the current one, oldest first."""
        given: Any = message.get(HISTORY)
        most = self.spec.n_obs_steps - 1
        is_listed = isinstance(given, list) and all(isinstance(each, dict) for each in given)
        if not is_listed or len(given) > most:
            got = f"{len(given)} maps" if is_listed else f"a {type(given).__name__}"
            raise ValueError(
                f"{HISTORY}: expected a list of at most {most} maps, the observations of the "
                "control steps before this one, oldest first ([] at the start of an episode), got "
                f"{got}."
            )
        return list(given)

    def _state_sources(self) -> list[StateSource]:
        state, mapping = self.spec.state, self.key_map.state
        if not state:
            return []
        if not isinstance(mapping, Mapping):
            keys = [Key(key, slice(None)) for key in as_list(mapping)]
            return [StateSource(keys, {key.path: self.spec.state_dim for key in keys})]
        return [self._state_source(mapping, part, dims) for part, dims in state.items()]

    def _state_source(self, mapping: Mapping[str, Keys], part: str, dims: int) -> StateSource:
        keys = [parse_key(key) for key in keys_for(mapping, part, "state part")]
        sliced = [parse_key(key) for entry in mapping.values() for key in as_list(entry)]
        lengths = {}
        for path, own in keys:
            ends = [key.stop or (key.start or 0) + dims for other, key in sliced if other == path]
            lengths[path] = max([dims, *ends])
            got = len(range(lengths[path])[own])
            if got != dims:
                raise ValueError(
                    f"The policy needs the state part {part!r} of {dims} numbers; expected as many "
                    f"in the key map, got {got} at {path!r}. Train on those, or use another key "
                    "map."
                )
        return StateSource(keys, lengths)

    def _check_chunks(self, n_action_steps: int | None) -> int:
        fewest, most = self.key_map.client.chunk_length
        horizon, dims = self.spec.horizon, self.spec.action_dim
        if fewest is not None and horizon < fewest:
            raise ValueError(
                f"expected a horizon of at least {fewest} steps (client.chunk_length of the key "
                f"map), got a policy with {horizon}. Train with a longer horizon, or use another "
                "key map."
            )
        named = sum(spec["dims"] for spec in self.key_map.client.action_spec.values())
        if self.key_map.client.action_spec and named != dims:
            raise ValueError(
                f"expected {named} action dimensions (client.action_spec of the key map), got a "
                f"policy with {dims}. Use another key map."
            )
        steps = horizon if most is None else min(horizon, most)
        if n_action_steps is None:
            return steps
        if not (fewest or 1) <= n_action_steps <= steps:
            raise ValueError(
                f"n_action_steps: expected {fewest or 1} to {steps} (horizon {horizon}, "
                f"chunk_length {self.key_map.client.chunk_length}), got {n_action_steps}."
            )
        return n_action_steps

    def _vector(self, message: dict[Any, Any], source: StateSource) -> Floats:
        parts = {key.path: key.part for key in source.keys}
        path, value = find(message, list(parts), "the robot's state")
        length = source.lengths[path]
        return _to_floats(path, value, f"{length} numbers", length, length).reshape(-1)[parts[path]]

    def _action_prefix(self, value: Any) -> Floats:
        """The first actions of the new chunk, which the robot executes already, ``(n, D)``."""
        most, dims = self.spec.horizon - 1, self.spec.action_dim
        expected = (
            f"the actions that the robot executes from this observation on, (n, {dims}) numbers "
            f"in robot units, n from 0 to {most}"
        )
        numbers = _to_floats(ACTION_PREFIX, value, expected, 0, most * dims)
        if numbers.size == 0:
            return numbers.reshape(0, dims)
        if numbers.ndim != 2 or numbers.shape[1] != dims:
            raise ValueError(f"{ACTION_PREFIX}: expected {expected}, got shape {numbers.shape}.")
        return numbers

    def _instruction(self, message: dict[Any, Any]) -> str:
        keys = as_list(self.key_map.instruction)
        if self.instruction is not None and not any(has(message, key) for key in keys):
            return self.instruction
        key, value = find(message, keys, "the instruction (or an --instruction of the server)")
        if isinstance(value, np.ndarray | np.generic) and value.size == 1:
            value = value.item()
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if not isinstance(value, str):
            raise ValueError(f"{key}: expected one instruction, got a {type(value).__name__}.")
        if len(value) > MAX_INSTRUCTION:
            raise ValueError(
                f"{key}: expected at most {MAX_INSTRUCTION} characters, got {len(value)}."
            )
        return value


def _upright(frame: Tensor, view: str, client: ClientLayout) -> Tensor:
    """Turn an image ``(3, h, w)`` as the client's layout says."""
    axes = {"vertical": [1], "horizontal": [2], "both": [1, 2]}
    flip = client.flips.get(view, client.flips.get("*"))
    return frame.flip(axes[flip]) if flip else frame


def stack(observations: list[Observation]) -> Observation:
    """Batch several observations, ``(B, …)``."""
    stacked = Observation(
        images={
            view: torch.cat([each["images"][view] for each in observations])
            for view in observations[0]["images"]
        },
        instruction=[text for each in observations for text in each["instruction"]],
        state=torch.cat([each["state"] for each in observations]),
    )
    if HISTORY in observations[0]:
        past = [each["history"] for each in observations]
        stacked["history"] = History(
            images={v: torch.cat([each["images"][v] for each in past]) for v in past[0]["images"]},
            state=torch.cat([each["state"] for each in past]),
        )
    prefixes = [prefix for each in observations for prefix in each.get(ACTION_PREFIX, [])]
    if prefixes:
        empty = [prefixes[0][:0]]
        stacked["action_prefix"] = [
            prefix for each in observations for prefix in each.get(ACTION_PREFIX, empty)
        ]
    return stacked


def _to_floats(key: str, value: Any, expected: str, fewest: int, most: int) -> Floats:
    """Numbers of a client as float32 of their shape, their count and size checked."""
    if not _is_numeric(value, most):
        kind = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{key}: expected {expected}, got no numbers ({kind}).")
    try:
        array = np.asarray(value, value.dtype if isinstance(value, np.ndarray) else np.float64)
    except ValueError as error:
        raise ValueError(f"{key}: expected {expected}, got uneven lists.") from error
    if not fewest <= array.size <= most:
        raise ValueError(f"{key}: expected {expected}, got shape {array.shape}.")
    is_bounded = np.abs(array.astype(np.float64)) <= MAX_MAGNITUDE  # false for NaN
    if not is_bounded.all():
        index = int(np.flatnonzero(~is_bounded.reshape(-1))[0])
        raise ValueError(
            f"{key}: expected {expected}, finite and at most {MAX_MAGNITUDE:g} in magnitude, got "
            f"{array.reshape(-1)[index]:g} at index {index}."
        )
    return array.astype(np.float32)


def _is_numeric(value: Any, most: int) -> bool:
    if isinstance(value, list):
        return all(
            _is_numeric(item, most) and not (isinstance(item, np.ndarray) and item.size > most)
            for item in value
        )
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    return isinstance(value, bool | int | float)
