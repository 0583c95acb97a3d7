"""vla-eval's protocol: typed messages, one action for each observation, errors that end nothing."""

from __future__ import annotations

import time
from collections import deque
from importlib.metadata import version
from typing import Any

from e0_lightning.serving.batching import Answer
from e0_lightning.serving.codec import decode, encode
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.serving.service import Connection, Service

NAME = "vla-eval"
_PROTOCOL_VERSION = 1
_FIELDS: dict[str, Any] = {"type": str, "payload": dict, "seq": int, "timestamp": (int, float)}


async def handle_connection(connection: Connection, service: Service) -> None:
    """Serve one harness; every message is answered under its own number.

    Args:
        connection: Open connection.
        service: Where answers come from.
    """
    session = _Session(service)
    async for frame in service.frames(connection):
        seq = 0
        try:
            message = await service.off_loop(_message, frame)
            seq = message["seq"]
            kind, payload = await session.reply(message["type"], message["payload"])
        except Exception as error:
            session.planned.clear()
            kind = "error"
            text = service.explain(error, NAME)
            payload = {"error": f"observation_failed: {type(error).__name__}: {text}"}
        if kind:
            reply = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
            await connection.send(encode(reply, str))


class _Session:
    """One harness and what is left of its chunk."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.planned: deque[dict[str, Any]] = deque()

    async def reply(self, kind: str, payload: dict[Any, Any]) -> tuple[str, dict[str, Any]]:
        """Type and payload of the answer to a message; an empty type is no answer."""
        if kind == "hello":
            return kind, self._hello(payload)
        if kind == "observation":
            if not self.planned:
                answer = await self.service.answer(payload, NAME)
                self.planned.extend(_steps(answer, self.service.reader.steps))
            return "action", self.planned.popleft()
        if kind not in ("episode_start", "episode_end", "error"):
            raise ValueError(
                f"type: found {kind!r}, wanted hello, observation, episode_start, episode_end or "
                "error."
            )
        self.planned.clear()
        return "", {}

    def _hello(self, payload: dict[Any, Any]) -> dict[str, Any]:
        theirs = payload.get("protocol_version", _PROTOCOL_VERSION)
        if theirs != _PROTOCOL_VERSION:
            raise ValueError(
                f"protocol_version: found {theirs!r}, wanted {_PROTOCOL_VERSION}. Use vla-eval 0.8."
            )
        actions, observations = specs(self.service.reader)
        return {
            "harness_version": f"e0-lightning {version('e0-lightning')}",
            "protocol_version": _PROTOCOL_VERSION,
            "model_server": "e0-lightning",
            "capabilities": {},
            "observation_params": self.service.reader.layout.observation_params,
            "action_spec": actions,
            "observation_spec": observations,
        }


def _steps(answer: Answer, most: int) -> list[dict[str, Any]]:
    """A chunk as the harness takes it, a step at a time; it leaves alone what it does not know."""
    steps: list[dict[str, Any]] = [{"actions": action} for action in answer.actions[:most]]
    if answer.uncertainty is not None:
        for step, share in zip(steps, answer.uncertainty, strict=False):
            step["uncertainty"] = float(share)
    return steps


def specs(reader: ObservationParser) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the policy does and wants, as vla-eval's ``DimSpec`` has it on the wire.

    Args:
        reader: KeyMap and spec.

    Returns:
        Actions and observations: component to ``{name, dims, format}`` and a range where known.
    """
    spec = reader.spec
    actions = {name: {"name": name, **spec} for name, spec in reader.layout.actions.items()}
    if not actions:
        whole = {"name": "actions", "dims": spec.action_dim, "format": spec.control_mode}
        actions = {"actions": whole}
    observations = {
        key.removeprefix("images/"): {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"}
        for keys in reader.images.values()
        for key in keys
        if key.startswith("images/")
    }
    if sent := sum(reader.describe()["state"].values()):
        form = reader.layout.state_format
        observations["state"] = {"name": "state", "dims": sent, "format": form}
    observations["language"] = {"name": "language", "dims": 0, "format": "language"}
    return actions, observations


def _message(frame: bytes | str) -> dict[str, Any]:
    """Decode one typed message.

    Raises:
        ValueError: If it lacks a field or holds one of another type.
    """
    message = decode(frame)
    if not isinstance(message, dict):
        raise ValueError(
            f"Found a {type(message).__name__}, wanted a map with {', '.join(_FIELDS)}."
        )
    for name, kind in _FIELDS.items():
        if name not in message:
            raise ValueError(
                f"{name}: found only {list(message)[:10]}, wanted {', '.join(_FIELDS)}."
            )
        if not isinstance(message[name], kind):
            raise ValueError(f"{name}: found a {type(message[name]).__name__}, wanted {kind}.")
    return message
