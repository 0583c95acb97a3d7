"""vla-eval's protocol: typed messages, one action for each observation."""

from __future__ import annotations

import time
from collections import deque
from importlib.metadata import version
from typing import Any

from e0_lightning.serving.batching import Response
from e0_lightning.serving.codec import encode
from e0_lightning.serving.limits import shorten
from e0_lightning.serving.parser import HISTORY, ObservationParser
from e0_lightning.serving.service import Connection, Service

NAME = "vla-eval"
_PROTOCOL_VERSION = 1
_FIELDS: dict[str, Any] = {"type": str, "payload": dict, "seq": int, "timestamp": (int, float)}
_TYPES = ("hello", "observation", "episode_start", "episode_end", "error")


async def handle_connection(connection: Connection, service: Service) -> None:
    """Serve one harness; replies have the sequence number of their request.

    Args:
        connection: Open connection.
        service: Samples actions.
    """
    session = _Session(service)
    async for frame in service.frames(connection):
        seq = 0
        try:
            message = _check_fields(await service.decode(frame))
            del frame
            seq = message["seq"]
            kind, payload = await session.reply(message["type"], message["payload"])
        except Exception as error:
            session.chunk.clear()
            kind = "error"
            text = service.explain(error, NAME)
            payload = {"error": f"observation_failed: {type(error).__name__}: {text}"}
        connection.has_acted = kind == "action"
        if kind:
            reply = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
            await connection.send(encode(reply, str))


class _Session:
    """One harness, the remaining steps of its action chunk, and its earlier observations.

    The harness sends every step of an episode, so that the history is kept here.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.chunk: deque[dict[str, Any]] = deque()
        self.past: deque[dict[Any, Any]] = deque(maxlen=service.parser.spec.n_obs_steps - 1)

    async def reply(self, kind: str, payload: dict[Any, Any]) -> tuple[str, dict[str, Any]]:
        """Type and payload of the reply to a message; an empty type means no reply."""
        if kind == "hello":
            return kind, self._hello(payload)
        if kind == "observation":
            if not self.chunk:
                message = {**payload, HISTORY: list(self.past)}
                response = await self.service.sample(message, NAME)
                self.chunk.extend(_steps(response, self.service.parser.n_action_steps))
            self.past.append(payload)
            return "action", self.chunk.popleft()
        if kind not in _TYPES:
            raise ValueError(
                f"type: expected one of {', '.join(_TYPES)}, got {shorten(repr(kind), 80)}."
            )
        self.chunk.clear()
        self.past.clear()
        return "", {}

    def _hello(self, payload: dict[Any, Any]) -> dict[str, Any]:
        client = payload.get("protocol_version", _PROTOCOL_VERSION)
        if client != _PROTOCOL_VERSION:
            raise ValueError(
                f"protocol_version: expected {_PROTOCOL_VERSION}, got {shorten(repr(client), 80)}. "
                "Use vla-eval 0.8."
            )
        actions, observations = dim_specs(self.service.parser)
        return {
            "harness_version": f"e0-lightning {version('e0-lightning')}",
            "protocol_version": _PROTOCOL_VERSION,
            "model_server": "e0-lightning",
            "capabilities": {},
            "observation_params": self.service.parser.key_map.client.observation_params,
            "action_spec": actions,
            "observation_spec": observations,
        }


def _steps(response: Response, count: int) -> list[dict[str, Any]]:
    """The first steps of a chunk, a payload each; the harness ignores keys it does not use."""
    actions, uncertainty = response.sample
    steps: list[dict[str, Any]] = [{"actions": action} for action in actions[0, :count].numpy()]
    if uncertainty is not None:
        for step, value in zip(steps, uncertainty[0].tolist(), strict=False):
            step["uncertainty"] = value
    return steps


def dim_specs(parser: ObservationParser) -> tuple[dict[str, Any], dict[str, Any]]:
    """Action and observation spec of the policy, as vla-eval's ``DimSpec`` on the wire.

    Args:
        parser: Key map and spec.

    Returns:
        Actions and observations: component to ``{name, dims, format}`` and a range where known.
    """
    spec, client = parser.spec, parser.key_map.client
    actions = {name: {"name": name, **entry} for name, entry in client.action_spec.items()}
    if not actions:
        whole = {"name": "actions", "dims": spec.action_dim, "format": spec.control_mode}
        actions = {"actions": whole}
    observations = {
        key.removeprefix("images/"): {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"}
        for keys in parser.images.values()
        for key in keys
        if key.startswith("images/")
    }
    if dims := sum(parser.describe()["state"].values()):
        observations["state"] = {"name": "state", "dims": dims, "format": client.state_format}
    observations["language"] = {"name": "language", "dims": 0, "format": "language"}
    return actions, observations


def _check_fields(message: Any) -> dict[str, Any]:
    """Check the fields of a typed message.

    Raises:
        ValueError: If one is missing or of another type.
    """
    if not isinstance(message, dict):
        raise ValueError(
            f"expected a map with {', '.join(_FIELDS)}, got a {type(message).__name__}."
        )
    for name, kind in _FIELDS.items():
        if name not in message:
            raise ValueError(f"expected a map with {', '.join(_FIELDS)}, got one without {name!r}.")
        if not isinstance(message[name], kind):
            raise ValueError(f"{name}: expected {kind}, got a {type(message[name]).__name__}.")
    return message
