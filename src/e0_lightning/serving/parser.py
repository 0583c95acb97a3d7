"""A client's observations as a policy takes them: a layout bound to a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from e0_lightning.serving.images import square
from e0_lightning.serving.key_map import KeyMap, find, find_keys, has, listed
from e0_lightning.types import Observation, PolicySpec

Floats = np.ndarray[Any, np.dtype[np.float32]]

ACTION_PREFIX: Final = "action_prefix"
"""Key of a client's action_prefix actions, whatever its layout."""


class Place(NamedTuple):
    """Where a client keeps numbers of the state."""

    keys: list[str]
    length: int
    """How many numbers must be there."""
    cut: slice
    """Those of them that are wanted."""


class ObservationParser:
    """Observations of clients of one layout, as a policy of one spec takes them.

    Args:
        layout: Where things are.
        spec: What is wanted.
        prompt: Instruction for requests without one; None refuses them.
        n_action_steps: Steps of a chunk that the client is given; None for all that it takes.

    Raises:
        ValueError: If the layout has no place for something the spec demands, or its client
            wants other chunks.
    """

    def __init__(
        self,
        layout: KeyMap,
        spec: PolicySpec,
        prompt: str | None = None,
        n_action_steps: int | None = None,
    ) -> None:
        self.layout = layout
        self.spec = spec
        self.prompt = prompt
        self.images = {view: find_keys(layout.images, view, "view") for view in spec.views}
        self.state = self._state_places()
        self.inverted = np.repeat(
            [part in layout.inverted for part in spec.state], [*spec.state.values()]
        ).astype(bool)
        self.steps = self._steps(n_action_steps)

    def read(self, message: Any) -> Observation:
        """Take one observation out of a message.

        Returns:
            Images ``(1, 3, S, S)`` uint8, state ``(1, Q)`` float32, one instruction.

        Raises:
            ValueError: If something is missing or is not what the spec demands, naming the
                key, what was found and what is wanted.
        """
        if not isinstance(message, dict):
            raise ValueError(f"Found a {type(message).__name__}, wanted a map of observations.")
        images = {}
        for view, keys in self.images.items():
            key, pixels = find(message, keys, f"the image of view {view!r}")
            image = square(pixels, self.spec.views[view], key)
            images[view] = (image.flip(2) if view in self.layout.mirrored else image)[None]
        parts = [self._vector(message, keys, length)[cut] for keys, length, cut in self.state]
        state = np.concatenate([np.zeros(0, np.float32), *parts])
        state[self.inverted] = 1 - state[self.inverted]
        observation = Observation(
            images=images, instruction=[self._prompt(message)], state=torch.from_numpy(state)[None]
        )
        if ACTION_PREFIX in message:
            observation["action_prefix"] = [
                torch.from_numpy(self._committed(message[ACTION_PREFIX]))
            ]
        return observation

    def describe(self) -> dict[str, Any]:
        """What clients are told on connecting: the keys and shapes this server wants."""
        views = self.spec.views
        return {
            "images": {keys[0]: [views[v], views[v], 3] for v, keys in self.images.items()},
            "state": {place.keys[0]: place.length for place in self.state},
            "prompt": listed(self.layout.prompt)[0],
            "actions": [self.steps, self.spec.action_dim],
            "control_mode": self.spec.control_mode,
            ACTION_PREFIX: [self.spec.horizon - 1, self.spec.action_dim],
        }

    def _state_places(self) -> list[Place]:
        state, parts = self.spec.state, self.layout.parts
        if not state:
            return []
        if isinstance(self.layout.state, Mapping):
            return [
                Place(find_keys(self.layout.state, part, "state part"), dims, slice(None))
                for part, dims in state.items()
            ]
        keys = listed(self.layout.state)
        if not parts:
            return [Place(keys, self.spec.state_dim, slice(None))]
        sizes = {part: stop - start for part, (start, stop) in parts.items()}
        for part, dims in state.items():
            if sizes.get(part) != dims:
                there = ", ".join(f"{name} of {size}" for name, size in sizes.items())
                raise ValueError(
                    f"The policy wants the state part {part!r} of {dims} numbers, clients of this "
                    f"layout send {there} (layout: parts). Train on those, or use another layout."
                )
        length = max(stop for _, stop in parts.values())
        return [Place(keys, length, slice(*parts[part])) for part in state]

    def _steps(self, n_action_steps: int | None) -> int:
        fewest, most = self.layout.steps
        horizon, dims = self.spec.horizon, self.spec.action_dim
        if fewest is not None and horizon < fewest:
            raise ValueError(
                f"The policy plans {horizon} steps, clients of this layout want {fewest} or more "
                "(layout: steps). Train with a longer horizon, or use another layout."
            )
        named = sum(spec["dims"] for spec in self.layout.actions.values())
        if self.layout.actions and named != dims:
            raise ValueError(
                f"The policy's actions have {dims} dimensions, those of this layout {named} "
                "(layout: actions). Use another layout."
            )
        steps = horizon if most is None else min(horizon, most)
        if n_action_steps is not None and not (fewest or 1) <= n_action_steps <= steps:
            raise ValueError(
                f"n_action_steps: found {n_action_steps}, wanted {fewest or 1} to {steps}: the policy plans "
                f"{horizon} steps, clients of this layout take {self.layout.steps} (fewest, most)."
            )
        return steps if n_action_steps is None else n_action_steps

    def _vector(self, message: dict[Any, Any], keys: list[str], dims: int) -> Floats:
        key, found = find(message, keys, "the robot's state")
        numbers = _numbers(key, found, wanted := f"{dims} numbers")
        if numbers.size != dims:
            raise ValueError(f"{key}: found shape {numbers.shape}, wanted {wanted}.")
        return numbers.reshape(-1)

    def _committed(self, found: Any) -> Floats:
        """The first actions of the next chunk, ``(n, D)``, which the robot carries out already."""
        most, dims = self.spec.horizon - 1, self.spec.action_dim
        wanted = (
            f"(n, {dims}) numbers of robot units, n from 0 to {most}: the actions that the "
            "robot carries out from this observation on"
        )
        numbers = _numbers(ACTION_PREFIX, found, wanted)
        if numbers.size == 0:
            return numbers.reshape(0, dims)
        if numbers.ndim != 2 or numbers.shape[1] != dims or len(numbers) > most:
            raise ValueError(f"{ACTION_PREFIX}: found shape {numbers.shape}, wanted {wanted}.")
        return numbers

    def _prompt(self, message: dict[Any, Any]) -> str:
        keys = listed(self.layout.prompt)
        if self.prompt is not None and not any(has(message, key) for key in keys):
            return self.prompt
        key, found = find(message, keys, "the instruction (or start the server with --prompt)")
        if isinstance(found, np.ndarray | np.generic) and found.size == 1:
            found = found.item()
        if isinstance(found, bytes):
            found = found.decode(errors="replace")
        if not isinstance(found, str):
            raise ValueError(f"{key}: found a {type(found).__name__}, wanted one instruction.")
        return found


def stack(observations: list[Observation]) -> Observation:
    """Several observations of one as one of several, ``(B, …)``."""
    stacked = Observation(
        images={
            view: torch.cat([one["images"][view] for one in observations])
            for view in observations[0]["images"]
        },
        instruction=[text for one in observations for text in one["instruction"]],
        state=torch.cat([one["state"] for one in observations]),
    )
    given = [tail for one in observations for tail in one.get(ACTION_PREFIX, [])]
    if given:
        empty = [given[0][:0]]
        stacked[ACTION_PREFIX] = [
            tail for one in observations for tail in one.get(ACTION_PREFIX, empty)
        ]
    return stacked


def _numbers(key: str, found: Any, wanted: str) -> Floats:
    """Whatever holds numbers, as float32 of its shape."""
    try:
        values = np.asarray(found)
        numbers = values.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: found no numbers ({error}), wanted {wanted}.") from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{key}: found {values.dtype} of shape {values.shape}, wanted {wanted}.")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{key}: found {numbers.tolist()}, wanted {wanted}, all finite.")
    return numbers
