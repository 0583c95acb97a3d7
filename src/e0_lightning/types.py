"""What travels between the rooms: observations, batches, contracts, and who acts on them.

Shapes, used in every docstring: B batch, H horizon, D action dimensions, L = H·D tokens, K bins,
S image side, P prefix length, W width, Q state dimensions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

MIRRORED = "_mirrored"
"""Ending of a view as OpenVLA and openpi train on it: turned by 180 degrees from how it is stored,
hence upright but with left and right swapped, so that no camera could have taken it. Part of the
view's name, so that it stands in the contract of whoever trains on it."""


class Observation(TypedDict):
    """What a policy sees, in robot units and raw pixels."""

    images: dict[str, Tensor]
    """View name to ``(B, 3, S, S)`` uint8 RGB, upright."""
    instruction: list[str]
    """B sentences."""
    state: Tensor
    """``(B, Q)`` float32, the named parts of the contract side by side."""
    intrinsics: NotRequired[dict[str, Tensor]]
    """View name to ``(B, 3, 3)`` camera matrix in pixels, where the source knows it."""
    view_offset: NotRequired[dict[str, Tensor]]
    """View name to ``(B, 3)``: displacement (radial, horizontal, vertical) of that camera, the
    angles in radians; absent means zero."""
    committed: NotRequired[list[Tensor]]
    """B times ``(n, D)`` float32, robot units, n from 0 to H − 1 and not the same for all: the
    first actions of the new chunk, which are decided already, for the robot carries them out while
    the rest is being chosen. The chunk begins with them unchanged, or the actor refuses."""


class Batch(Observation):
    """An observation and the actions a demonstrator took from it."""

    actions: Tensor
    """``(B, H, D)`` float32, robot units."""
    valid: Tensor
    """``(B, H)`` bool, false past the end of the episode."""


@dataclass(frozen=True)
class Contract:
    """What demonstrations, a policy and an environment must agree on.

    Args:
        views: View name to image side in pixels.
        state: Named state part to its number of dimensions, in their order side by side.
        action_dim: Action dimensions D.
        control_mode: The robot controller that the actions are meant for.
        horizon: Steps in an action chunk.
    """

    views: dict[str, int] = field(default_factory=dict)
    state: dict[str, int] = field(default_factory=dict)
    action_dim: int = 0
    control_mode: str = ""
    horizon: int = 0

    @property
    def state_dim(self) -> int:
        """State dimensions Q."""
        return sum(self.state.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return asdict(self)

    def arrange(self, observation: Observation) -> Observation:
        """An observation with its views in the contract's order.

        Raises:
            ValueError: If it shows other views, frames of another size, or another state.
        """
        images, state = observation["images"], observation["state"]
        found = {view: tuple(frames.shape[1:]) for view, frames in images.items()}
        wanted = {view: (3, side, side) for view, side in self.views.items()}
        if found != wanted:
            raise ValueError(
                f"images: found {found}, wanted {wanted}. Give these views, as large as in the "
                "demonstrations; what is cropped or scaled is the policy's business."
            )
        if state.shape[-1] != self.state_dim:
            raise ValueError(
                f"state: found {state.shape[-1]} dimensions, wanted {self.state_dim}: the parts "
                f"{self.state} side by side."
            )
        ordered = {view: images[view] for view in self.views}
        return Observation({**observation, "images": ordered})  # type: ignore[typeddict-item]

    def require(self, other: Contract, mine: str, theirs: str) -> None:
        """Refuse to work with a side that promises something else.

        Args:
            other: The other side's contract.
            mine: What this contract belongs to, for the message.
            theirs: What the other belongs to.

        Raises:
            ValueError: If any field differs, naming the field and both values.
        """
        own, found = self.as_dict(), other.as_dict()
        differing = [name for name in own if own[name] != found[name]]
        # A dictionary compares without order, but parts of a state lie in order.
        if "state" not in differing and list(self.state) != list(other.state):
            differing.append("state")
        if differing:
            lines = [
                f"  {name}: {mine} has {own[name]}, {theirs} has {found[name]}"
                for name in differing
            ]
            raise ValueError(
                f"{mine} and {theirs} do not fit together:\n" + "\n".join(lines) + "\n"
                "Use data or environments of the same contract, or train a policy for this one."
            )


@dataclass(frozen=True)
class EpisodeResult:
    """How one closed-loop episode ended.

    Args:
        task: Task name.
        seed: Seed or initial state the episode started from.
        success: The simulator's own flag, at any step.
        steps: Environment steps taken.
        error: What went wrong, empty unless the environment failed; never a success.
        video: File of the episode, if one was written.
        camera: Displacement of the fixed cameras: azimuth and elevation in degrees, share of the
            distance added.
    """

    task: str
    seed: int
    success: bool
    steps: int
    error: str = ""
    video: str | None = None
    camera: tuple[float, float, float] = (0.0, 0.0, 0.0)


@runtime_checkable
class Actor(Protocol):
    """Anything that can act in a world: a policy, a client of a remote one, a script."""

    @property
    def contract(self) -> Contract:
        """What the actor must be shown and what its actions mean."""
        ...

    def act(self, observation: Observation) -> Tensor:
        """Choose the next H actions, ``(B, H, D)``, robot units."""
        ...


class Plan(NamedTuple):
    """Chunks, and how sure who chose them is."""

    actions: Tensor
    """``(B, H, D)``, robot units."""
    uncertainty: Tensor | None = None
    """``(B, H)`` in [0, 1]: mean entropy of a step's tokens as a share of ``ln K``, so that 0 is
    sure and 1 knows nothing, whatever the number of bins; None where there are no tokens."""


@runtime_checkable
class Planner(Actor, Protocol):
    """An actor that can also say how sure it is."""

    def plan(self, observation: Observation) -> Plan:
        """Choose what :meth:`act` does, with its uncertainty."""
        ...


@runtime_checkable
class EpisodeBatch(Protocol):
    """Episodes to play, one item of a data loader; the world is the batch's business."""

    def run(self, actor: Actor) -> list[EpisodeResult]:
        """Play every episode to its end and return one result for each, in order."""
        ...
