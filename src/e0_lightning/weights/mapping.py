"""Foreign tensors put into ours, each accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorMapping:
    """Where a foreign tensor goes.

    Args:
        name: A tensor of ours.
        rows: ``(index, count)``: it fills one of ``count`` equal blocks of rows; ``(0, 1)`` is all.
        change: What is done to it first.
        is_optional: It may stay behind where ours has no such tensor or another shape.
        is_vocabulary: Its rows are tokens, of which either side may have more.
        otherwise: A tensor of ours that takes it where there is none of the first name.
    """

    name: str
    rows: tuple[int, int] = (0, 1)
    change: Callable[[Tensor], Tensor] | None = None
    is_optional: bool = False
    is_vocabulary: bool = False
    otherwise: str = ""


@dataclass(frozen=True)
class WeightMapping:
    """How the weights of one architecture become ours.

    Args:
        architecture: Its name, for messages.
        places: Foreign name to place; a name that is absent has none.
        required: Pattern of our names that must be filled to the last row.
        zeros: Ours that the architecture lacks, each with one of ours: where that is filled, the
            first becomes zero and so does nothing.
    """

    architecture: str
    places: Mapping[str, TensorMapping]
    required: str
    zeros: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """What became of every tensor, foreign and ours.

    Args:
        loaded: Ours that are filled.
        reshaped: The loaded that were changed, joined or cut on the way, as ``ours <- theirs``.
        missing: Ours that keep the values they had.
        unexpected: Foreign ones without a place.
        share: Share of our numbers that are filled, in [0, 1].
    """

    loaded: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    share: float = 0.0

    def __str__(self) -> str:
        """Every tensor by its fate, and one line that counts them."""
        kinds = ("loaded", "reshaped", "missing", "unexpected")
        lines = [f"{kind}: {name}" for kind in kinds for name in getattr(self, kind)]
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)
        return "\n".join([*lines, f"{counts}; {self.share:.1%} of all numbers are loaded"])


def load_mapped(
    ours: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], plan: WeightMapping
) -> Report:
    """Copy foreign tensors into ours, in place, one at a time.

    Args:
        ours: Name to tensor.
        tensors: Foreign names and tensors, read as they are asked for.
        plan: Where each goes.

    Returns:
        What became of each tensor.

    Raises:
        ValueError: If shapes show another architecture, two tensors have the same place, a required
            tensor is not filled, or hardly anything has a place.
    """
    report, misfits, names = Report(), [], 0
    filled: dict[str, dict[int, str]] = {}
    for theirs, tensor in _biases_last(tensors, plan):
        names += 1
        place = plan.places.get(theirs)
        if place is None:
            report.unexpected.append(theirs)
            continue
        if place.name not in ours and place.otherwise in ours:
            place = replace(place, name=place.otherwise)
        sources = filled.setdefault(place.name, {})
        first = sources.get(place.rows[0])
        misfit = f"{place.name} is taken by {first}" if first else ""
        if place.is_optional and _weight(theirs) != theirs:
            own = filled.get(_weight(place.name), {}).get(place.rows[0])
            misfit = misfit or ("" if own == _weight(theirs) else f"{_weight(theirs)} has no place")
        misfit = misfit or _put(ours, place, tensor)
        if not misfit:
            sources[place.rows[0]] = theirs
            if place.rows[1] > 1 or place.change or tensor.shape != ours[place.name].shape:
                report.reshaped.append(f"{place.name} <- {theirs}")
        elif place.is_optional:
            report.unexpected.append(theirs)
        else:
            misfits.append(f"  {theirs}: {misfit}")
    for name, beside in plan.zeros.items():
        if name in ours and filled.get(beside):
            ours[name].detach().zero_()
            filled[name] = {0: "zero"}
            report.reshaped.append(f"{name} <- zero")
    _account(report, ours, plan, filled)
    _refuse(report, plan, misfits, names)
    return report


def _weight(name: str) -> str:
    """The matrix that a bias belongs to; itself for anything else."""
    return f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name


def _biases_last(
    tensors: Iterable[tuple[str, Tensor]], plan: WeightMapping
) -> Iterator[tuple[str, Tensor]]:
    """Optional biases after all else: one goes where its matrix went, though it fits elsewhere."""
    kept = []
    for name, tensor in tensors:
        place = plan.places.get(name)
        if place is not None and place.is_optional and _weight(name) != name:
            kept.append((name, tensor))
        else:
            yield name, tensor
    yield from kept


def _put(ours: Mapping[str, Tensor], place: TensorMapping, tensor: Tensor) -> str:
    """Copy one tensor; says what does not fit, empty where all does."""
    if place.name not in ours:
        return f"{tuple(tensor.shape)} has no counterpart {place.name}"
    target = ours[place.name].detach()
    index, count = place.rows
    rows = len(target) // count
    target = target[index * rows : (index + 1) * rows]
    changed = place.change(tensor) if place.change else tensor
    if place.is_vocabulary:
        shared = min(len(target), len(changed))
        target, changed = target[:shared], changed[:shared]
    if target.shape != changed.shape:
        return f"{tuple(changed.shape)}, but {place.name} takes {tuple(target.shape)}"
    with torch.no_grad():
        target.copy_(changed)
    return ""


def _account(
    report: Report,
    ours: Mapping[str, Tensor],
    plan: WeightMapping,
    filled: dict[str, dict[int, str]],
) -> None:
    counts = {place.name: place.rows[1] for place in plan.places.values()}
    needs_all = re.compile(plan.required)
    for name in ours:
        parts = len(filled.get(name, ()))
        # A part is enough where the plan does not ask for the rest, as for plain norms.
        whole = parts > 0 and (parts == counts.get(name, 1) or not needs_all.match(name))
        (report.loaded if whole else report.missing).append(name)
    total = sum(tensor.numel() for tensor in ours.values())
    report.share = sum(ours[name].numel() for name in report.loaded) / total


def _refuse(report: Report, plan: WeightMapping, misfits: list[str], names: int) -> None:
    if len(report.unexpected) > 0.9 * names:
        raise ValueError(
            f"Of {names} tensors, {len(report.unexpected)} have no place in {plan.architecture}, "
            f"e.g. {report.unexpected[:3]}. Is it the checkpoint you meant?"
        )
    if misfits:
        raise ValueError(
            f"The model is not of the checkpoint's architecture ({plan.architecture}); "
            f"{len(misfits)} tensors do not fit:\n" + "\n".join(misfits[:8]) + "\n"
            "Set widths, depths and heads of the model to those of the checkpoint, as "
            "experiments/backbone/paligemma.yaml does."
        )
    lacking = [name for name in report.missing if re.match(plan.required, name)]
    if lacking:
        raise ValueError(
            f"The checkpoint ({plan.architecture}) gives nothing, or not all, for {len(lacking)} "
            f"tensors of the model, e.g. {lacking[:8]}. It is incomplete, or the model is deeper."
        )
