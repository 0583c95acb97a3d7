"""Copies the tensors of a foreign checkpoint into a policy and accounts for each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorMapping:
    """Target of one source tensor.

    Args:
        name: Target tensor.
        slice: ``(index, count)``: the source fills one of ``count`` equal blocks of target rows;
            ``(0, 1)`` is all of them.
        transform: Applied to the source first.
        optional: The source is skipped if the policy has no such target or one of another shape.
        vocabulary: The rows are tokens, and the larger vocabulary is cut to the smaller one.
        padded_inputs: The columns past those of the target had zeros as inputs, and are cut.
        fallback: Target tensor if the policy has none called ``name``.
    """

    name: str
    slice: tuple[int, int] = (0, 1)
    transform: Callable[[Tensor], Tensor] | None = None
    optional: bool = False
    vocabulary: bool = False
    padded_inputs: bool = False
    fallback: str = ""


@dataclass(frozen=True)
class WeightMapping:
    """Targets of all source tensors of one architecture.

    Args:
        architecture: Its name, for messages.
        tensors: Source name to target; sources that are absent have none.
        required: Pattern of target names that must be filled completely.
        zeros: Targets that the architecture lacks, each with a second target: if that one is
            filled, the first is set to zero and has no effect.
        unused: Pattern of source names that the architecture itself does not use.
        inseparable: Pattern of source names of which none may be left behind if a source called
            ``anchor`` is loaded.
        anchor: See ``inseparable``.
    """

    architecture: str
    tensors: Mapping[str, TensorMapping]
    required: str
    zeros: Mapping[str, str] = field(default_factory=dict)
    unused: str = r"$^"
    inseparable: str = r"$^"
    anchor: str = ""


@dataclass
class MappingReport:
    """What happened to every source and target tensor.

    Args:
        loaded: Targets that are filled.
        reshaped: Loaded targets that were transformed, joined or cut, as ``target <- source``.
        missing: Targets that keep their initial values.
        unexpected: Sources that are left behind, as the policy has no target for them.
        unused: Sources that the checkpoint's own architecture does not use.
        fraction: Loaded fraction of the policy's parameters, in [0, 1].
    """

    loaded: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    fraction: float = 0.0

    def __str__(self) -> str:
        """One line per tensor, one of the tensors that are left behind, and one of counts."""
        kinds = ("loaded", "reshaped", "missing", "unexpected", "unused")
        lines = [f"{kind}: {name}" for kind in kinds for name in getattr(self, kind)]
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)
        lines.append(f"left behind: {', '.join(self.unexpected) or 'none'}")
        return "\n".join([*lines, f"{counts}; {self.fraction:.1%} of all parameters are loaded"])


def load_mapped(
    targets: Mapping[str, Tensor], sources: Iterable[tuple[str, Tensor]], mapping: WeightMapping
) -> MappingReport:
    """Copy source tensors into target tensors, in place, one at a time.

    Args:
        targets: Name to tensor.
        sources: Names and tensors, read lazily.
        mapping: Target of each source.

    Returns:
        What happened to each tensor.

    Raises:
        ValueError: If shapes belong to another architecture, two sources have the same target, a
            required target is not filled, an inseparable source is left behind, or hardly any
            source has a target.
    """
    report, mismatches, count = MappingReport(), [], 0
    filled: dict[str, dict[int, str]] = {}
    for source, tensor in _optional_biases_last(sources, mapping):
        count += 1
        target = mapping.tensors.get(source)
        if target is None:
            kind = report.unused if re.search(mapping.unused, source) else report.unexpected
            kind.append(source)
            continue
        if target.name not in targets and target.fallback in targets:
            target = replace(target, name=target.fallback)
        slices = filled.setdefault(target.name, {})
        first = slices.get(target.slice[0])
        mismatch = f"{target.name} is already filled by {first}" if first else ""
        if not mismatch and target.optional and _weight_name(source) != source:
            owner = filled.get(_weight_name(target.name), {}).get(target.slice[0])
            if owner != _weight_name(source):
                mismatch = f"{_weight_name(source)} was not loaded"
        mismatch = mismatch or _copy(targets, target, tensor)
        if not mismatch:
            slices[target.slice[0]] = source
            is_whole = target.slice[1] == 1 and tensor.shape == targets[target.name].shape
            if target.transform or not is_whole:
                report.reshaped.append(f"{target.name} <- {source}")
        elif target.optional:
            report.unexpected.append(source)
        else:
            mismatches.append(f"  {source}: {mismatch}")
    for name, other in mapping.zeros.items():
        if name in targets and filled.get(other):
            targets[name].detach().zero_()
            filled[name] = {0: "zero"}
            report.reshaped.append(f"{name} <- zero")
    _count_loaded(report, targets, mapping, filled)
    _check(report, mapping, mismatches, count)
    _check_inseparable(report, mapping, filled)
    return report


def _weight_name(name: str) -> str:
    """Return the matrix that a bias belongs to; other names are returned unchanged."""
    return f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name


def _optional_biases_last(
    sources: Iterable[tuple[str, Tensor]], mapping: WeightMapping
) -> Iterator[tuple[str, Tensor]]:
    """Yield optional biases at the end, because a bias is loaded only together with its matrix."""
    biases = []
    for name, tensor in sources:
        target = mapping.tensors.get(name)
        if target is not None and target.optional and _weight_name(name) != name:
            biases.append((name, tensor))
        else:
            yield name, tensor
    yield from biases


def _copy(targets: Mapping[str, Tensor], mapping: TensorMapping, source: Tensor) -> str:
    """Copy one tensor; returns why it does not fit, empty if it does."""
    if mapping.name not in targets:
        return f"{tuple(source.shape)} has no counterpart {mapping.name}"
    target = targets[mapping.name].detach()
    index, count = mapping.slice
    rows = len(target) // count
    target = target[index * rows : (index + 1) * rows]
    source = mapping.transform(source) if mapping.transform else source
    if mapping.padded_inputs:
        source = source[:, : target.shape[1]]
    if mapping.vocabulary:
        shared = min(len(target), len(source))
        target, source = target[:shared], source[:shared]
    if target.shape != source.shape:
        return f"expected {tuple(target.shape)} for {mapping.name}, got {tuple(source.shape)}"
    with torch.no_grad():
        target.copy_(source)
    return ""


def _count_loaded(
    report: MappingReport,
    targets: Mapping[str, Tensor],
    mapping: WeightMapping,
    filled: dict[str, dict[int, str]],
) -> None:
    slices = {target.name: target.slice[1] for target in mapping.tensors.values()}
    required = re.compile(mapping.required)
    for name in targets:
        count = len(filled.get(name, ()))
        # A slice is enough where the mapping does not require the rest, as for plain norms.
        complete = count > 0 and (count == slices.get(name, 1) or not required.match(name))
        (report.loaded if complete else report.missing).append(name)
    total = sum(tensor.numel() for tensor in targets.values())
    report.fraction = sum(targets[name].numel() for name in report.loaded) / total


def _check(
    report: MappingReport, mapping: WeightMapping, mismatches: list[str], count: int
) -> None:
    if len(report.unexpected) > 0.9 * count:
        raise ValueError(
            f"Expected a checkpoint of {mapping.architecture}, got {count} tensors of which "
            f"{len(report.unexpected)} have no target, such as {report.unexpected[:3]}. Check the "
            "path of the checkpoint."
        )
    if mismatches:
        raise ValueError(
            f"The policy and the checkpoint ({mapping.architecture}) have different architectures: "
            f"{len(mismatches)} tensors do not fit:\n" + "\n".join(mismatches[:8]) + "\n"
            "Set widths, depths and heads of the policy to those of the checkpoint, as "
            "experiments/backbone/paligemma.yaml does."
        )
    lacking = [name for name in report.missing if re.match(mapping.required, name)]
    if lacking:
        raise ValueError(
            f"The checkpoint ({mapping.architecture}) lacks all or part of {len(lacking)} tensors "
            f"of the policy, such as {lacking[:8]}. Download it again, or reduce the depth."
        )


def _check_inseparable(
    report: MappingReport, mapping: WeightMapping, filled: Mapping[str, Mapping[int, str]]
) -> None:
    left = [name for name in report.unexpected if re.search(mapping.inseparable, name)]
    loaded = {source for sources in filled.values() for source in sources.values()}
    anchors = [name for name in loaded if mapping.anchor and name.endswith(mapping.anchor)]
    if left and anchors:
        raise ValueError(
            f"The policy has no counterpart of {len(left)} tensors of the checkpoint "
            f"({mapping.architecture}) that {anchors[0]} was trained with. Left behind: "
            f"{', '.join(left)}. Build the policy with experiments/backbone/pi0.yaml or pi05.yaml, "
            "and an actions.model_dim and state no larger than the checkpoint's."
        )
