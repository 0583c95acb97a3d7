"""Types shared by all folders: observations, batches, specs, results, and who acts on them.

Shapes, used in every docstring: B batch, H horizon, D action dimensions, L = H·D tokens, K bins,
(h, w) image size, P prefix length, W width, Q state dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

MIRRORED = "_mirrored"
"""Suffix of a view's name when its images are mirrored left to right, as those that OpenVLA and
openpi train on (LIBERO's frames rotated by 180 degrees)."""


RenderQuality = Literal["default", "fast"]
"""How a simulator renders: as it does by itself, or faster, with nearly the same images: LIBERO
with fewer triangles, without reflections and multisampling, ManiSkill with fewer triangles of the
robot."""


class History(TypedDict):
    """The m observations before the current one, oldest first; the first of an episode repeated."""

    images: dict[str, Tensor]
    """View name to ``(B, m, 3, h, w)``, as in :class:`Observation`."""
    state: Tensor
    """``(B, m, Q)`` float32."""


class Observation(TypedDict):
    """The input of a policy, in robot units and raw pixels."""

    images: dict[str, Tensor]
    """View name to ``(B, 3, h, w)`` uint8 RGB, upright; each view has its own size."""
    instruction: list[str]
    """B sentences."""
    state: Tensor
    """``(B, Q)`` float32, the state parts of the spec concatenated."""
    image_mask: NotRequired[dict[str, Tensor]]
    """View name to ``(B,)`` bool, false where there is no such camera and the images are black: the
    policy attends to no token of them. True where absent."""
    intrinsics: NotRequired[dict[str, Tensor]]
    """View name to camera matrix ``(B, 3, 3)``, pixels, for the views where it is known."""
    view_offset: NotRequired[dict[str, Tensor]]
    """View name to camera displacement ``(B, 3)``: radial (relative change of the distance from the
    look-at point), horizontal, vertical, the angles in radians; zero where absent."""
    history: NotRequired[History]
    """The ``n_obs_steps - 1`` control steps before this one, if the spec has any."""
    action_prefix: NotRequired[list[Tensor]]
    """B tensors ``(n, D)`` float32, robot units, 0 ≤ n < H: the first actions of the new chunk,
    which are fixed because the robot executes them during inference (real-time chunking). The
    returned chunk starts with them unchanged."""
    noise_seed: NotRequired[list[int]]
    """B seeds. The random draws for observation b depend on seed b alone, so that its action chunk
    does not depend on the rest of the batch; torch's global generator is used where absent."""


class Batch(Observation):
    """Observations and the demonstrator's actions, in robot units."""

    actions: Tensor
    """``(B, H, D)`` float32, robot units."""
    valid: Tensor
    """``(B, H)`` bool, false past the end of the demonstration."""
    demo: NotRequired[list[str]]
    """B names of demonstrations, ``<file stem>/<name>``."""
    step: NotRequired[Tensor]
    """``(B,)`` int64, step of the observation in its demonstration."""
    depth: NotRequired[dict[str, Tensor]]
    """View to depth along its optical axis ``(B, h, w)`` float32, metres, 0 where unknown; for
    augmentation, no input of a policy."""


class NormalizedBatch(TypedDict):
    """Training targets of a policy, normalized."""

    actions: Tensor
    """``(B, H, D)`` float32, normalized and padded to the action dimensions of the model."""
    valid: Tensor
    """``(B, H)`` bool, false past the end of the demonstration."""


@dataclass(frozen=True)
class ViewSize:
    """Size of a view's images, and how the frames of its camera are brought to it.

    A camera's frame is cropped, then resized. Reader, environment and server all do this with
    :func:`e0_lightning.geometry.resize_frames`, so that a policy is given the same images.

    Args:
        height: Rows h, pixels.
        width: Columns w, pixels.
        crop: ``[top, left, height, width]`` of the camera's frame, as fractions of its edges where
            all four are at most 1, else in pixels; None for the whole frame.
        fit: ``pad`` keeps the aspect ratio and fills with black, ``stretch`` does not.
        camera: Rows and columns of the recorded frames, pixels: the size at which simulators
            render. Not compared, as cameras of several sizes may serve one view.

    Raises:
        ValueError: If a size, the crop or ``fit`` is out of range.
    """

    height: int
    width: int
    crop: list[float] | None = None
    fit: Literal["pad", "stretch"] = "pad"
    camera: tuple[int, int] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                "expected a height and width of at least 1 pixel, got "
                f"{self.height} x {self.width}."
            )
        if self.fit not in ("pad", "stretch"):
            raise ValueError(f"fit: expected pad or stretch, got {self.fit!r}.")
        crop = self.crop
        if crop is not None and not (len(crop) == 4 and min(crop) >= 0 and min(crop[2:]) > 0):
            raise ValueError(
                f"crop: expected [top, left, height, width], the last two above 0, got {crop}."
            )

    @property
    def camera_size(self) -> tuple[int, int]:
        """Rows and columns of the camera's frames; those of the images where not known."""
        height, width = (self.height, self.width) if self.camera is None else self.camera
        return height, width

    def __str__(self) -> str:
        rule = "" if self.crop is None else f", crop {self.crop}"
        return f"{self.height} x {self.width} px{rule}" + ", stretched" * (self.fit == "stretch")


@dataclass(frozen=True)
class PolicySpec:
    """Observation and action spec that demonstrations, policies and environments must agree on.

    Args:
        views: View name to the size of its images; an int is the side of a square, a pair rows and
            columns, and a dict the arguments of :class:`ViewSize`.
        state: State part to its number of dimensions, in the order of concatenation.
        action_dim: Action dimensions D.
        control_mode: Robot controller that the actions are meant for.
        horizon: Steps H of an action chunk.
        n_obs_steps: Control steps that are observed: the current one and those before it.
        render_quality: How a simulator renders the views; see :data:`RenderQuality`.
    """

    views: dict[str, ViewSize] = field(default_factory=dict)
    state: dict[str, int] = field(default_factory=dict)
    action_dim: int = 0
    control_mode: str = ""
    horizon: int = 0
    n_obs_steps: int = 1
    render_quality: RenderQuality = "default"

    def __post_init__(self) -> None:
        views = {view: _as_view_size(size) for view, size in self.views.items()}
        object.__setattr__(self, "views", views)

    @property
    def state_dim(self) -> int:
        """State dimensions Q."""
        return sum(self.state.values())

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a checkpoint."""
        return asdict(self)

    def state_indices(self, parts: Mapping[str, Sequence[int]], option: str) -> list[int]:
        """Indices into the concatenated state of dimensions that are given by state part.

        Args:
            parts: State part to dimensions within it, counted from 0.
            option: Name of the option that holds ``parts``, for error messages.

        Raises:
            ValueError: If there is no such part, or a part has no such dimension.
        """
        starts, total = {}, 0
        for name, size in self.state.items():
            starts[name], total = total, total + size
        for name, dims in parts.items():
            if name not in starts:
                raise ValueError(
                    f"{option}: expected state parts among {list(self.state)}, got {name!r}. "
                    "Name a part of the spec, or add it to data.state."
                )
            if dims and not (min(dims) >= 0 and max(dims) < self.state[name]):
                raise ValueError(
                    f"{option}: expected dimensions of {name!r} from 0 to {self.state[name] - 1}, "
                    f"got {list(dims)}."
                )
        return [starts[name] + dim for name, dims in parts.items() for dim in dims]

    def check_observation(self, observation: Observation) -> Observation:
        """Validate an observation and put its views in the order of the spec.

        Raises:
            ValueError: If views, image sizes, state dimensions or the length of the history are not
                those of the spec.
        """
        images, state = observation["images"], observation["state"]
        found = {view: tuple(frames.shape[1:]) for view, frames in images.items()}
        expected = {view: (3, size.height, size.width) for view, size in self.views.items()}
        if found != expected:
            raise ValueError(
                f"images: expected {expected}, got {found}. Pass these views in the size of the "
                "demonstrations; the policy crops and scales them itself."
            )
        if state.shape[-1] != self.state_dim:
            raise ValueError(
                f"state: expected {self.state_dim} dimensions (parts {self.state}, concatenated), "
                f"got {state.shape[-1]}."
            )
        self._check_history(observation.get("history"))
        ordered = {view: images[view] for view in self.views}
        return Observation({**observation, "images": ordered})  # type: ignore[typeddict-item]

    def _check_history(self, history: History | None) -> None:
        steps, found = self.n_obs_steps - 1, {}
        views = {view: (steps, 3, size.height, size.width) for view, size in self.views.items()}
        expected = views | {"state": (steps, self.state_dim)} if steps else {}
        if history is not None:
            tensors = {**history["images"], "state": history["state"]}
            found = {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
        if found != expected:
            raise ValueError(
                f"history: expected {expected or 'none'}, got {found or 'none'}. Pass the "
                f"{steps} observations before the current one, oldest first; repeat the first "
                "observation at the start of an episode."
            )

    def check_compatible(self, other: PolicySpec, owner: str, other_owner: str) -> None:
        """Refuse another spec that differs in any field.

        Args:
            other: The other spec.
            owner: What this spec belongs to, for the message.
            other_owner: What the other spec belongs to, for the message.

        Raises:
            ValueError: If any field differs, listing the fields with both values.
        """
        own, found = ({f.name: getattr(s, f.name) for f in fields(s)} for s in (self, other))
        differing = [name for name in own if own[name] != found[name]]
        # Dictionaries compare without order, but state parts are concatenated in order.
        if "state" not in differing and list(self.state) != list(other.state):
            differing.append("state")
        if differing:
            lines = [
                f"  {name}: {owner} has {_describe(own[name])}, {other_owner} has "
                f"{_describe(found[name])}"
                for name in differing
            ]
            raise ValueError(
                f"{owner} and {other_owner} are incompatible:\n" + "\n".join(lines) + "\n"
                "Use demonstrations and environments with the same spec, or train a policy for "
                "this one."
            )


def _as_view_size(size: Any) -> ViewSize:
    if isinstance(size, ViewSize):
        return size
    if isinstance(size, Mapping):
        return ViewSize(**size)
    return ViewSize(size, size) if isinstance(size, int) else ViewSize(*size)


def _describe(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "{" + ", ".join(f"{name}: {entry}" for name, entry in value.items()) + "}"


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one evaluation episode.

    Args:
        task: Task name.
        seed: Seed or initial state of the episode.
        success: The simulator's success flag, at any step.
        steps: Environment steps taken.
        error: Error message if the environment failed, else empty; never a success.
        video: Video file of the episode, if one was recorded.
        camera: Displacement of the fixed cameras: azimuth and elevation in degrees, relative
            change of the distance.
        score: The environment's measure of how well the task was done, from 0 to 1, where it has
            one besides the success.
        flags: Further flags of the simulator at the end of the episode, by name, where it has any.
    """

    task: str
    seed: int
    success: bool
    steps: int
    error: str = ""
    video: str | None = None
    camera: tuple[float, float, float] = (0.0, 0.0, 0.0)
    score: float | None = None
    flags: dict[str, bool] = field(default_factory=dict)


class ActionSample(NamedTuple):
    """Action chunks and their uncertainty, from the policy to the socket.

    :meth:`Policy.sample` returns normalized actions; everything outside of a policy is in robot
    units.
    """

    actions: Tensor
    """``(B, H, D)``."""
    uncertainty: Tensor | None = None
    """``(B, H)`` in [0, 1]: entropy of the tokens of a step divided by ``ln K``, averaged over its
    dimensions (0 certain, 1 uniform); None for policies without tokens."""


@runtime_checkable
class Actor(Protocol):
    """Anything that maps observations to action chunks: a policy, a remote client, a script."""

    @property
    def spec(self) -> PolicySpec:
        """Observation and action spec."""
        ...

    def act(self, observation: Observation) -> Tensor:
        """Choose the next H actions, ``(B, H, D)``, robot units."""
        ...


@runtime_checkable
class ActionSampler(Actor, Protocol):
    """An actor that also reports its uncertainty."""

    def sample_actions(self, observation: Observation) -> ActionSample:
        """Choose the next H actions as :meth:`act` does, with their uncertainty."""
        ...


@runtime_checkable
class EpisodeBatch(Protocol):
    """Evaluation episodes, one item of a data loader."""

    def run(self, actor: Actor) -> list[EpisodeResult]:
        """Run every episode to its end; one result per episode, in order."""
        ...
