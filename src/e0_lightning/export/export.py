"""`e0 export`: write a policy as one graph, and compare it with PyTorch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
from transformers import ByT5Tokenizer

from e0_lightning.export.act_graph import ActGraph
from e0_lightning.export.runner import ExportedPolicy
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.policies.observation import example_observation

TOLERANCE = 1e-5
"""Largest difference from PyTorch's actions, relative to the largest of them, or to 1."""


def export(
    checkpoint: str,
    out: str,
    format: Literal["onnx"] = "onnx",
    instruction_tokens: int | None = None,
    trust: list[str] | str | None = None,
) -> None:
    """Export `act` of a checkpoint as one graph, for runtimes without PyTorch.

    The folder gets the graph, `act.json` (its inputs) and `runner.py`, which needs numpy and
    onnxruntime alone: `ExportedPolicy(FOLDER).act(images, instruction, state)`. Images
    are scaled within the graph; the instruction is tokenized before it, and random samples are
    inputs. Prints the difference from PyTorch's actions and both latencies, each with one thread.

    Args:
        checkpoint: Checkpoint of the trainer.
        out: Folder to write.
        format: Format of the graph.
        instruction_tokens: Tokens that every instruction is padded to, which takes time; null for
            the model's longest.
        trust: As in `e0 serve`.

    Raises:
        ValueError: If packages are missing, or the graph's actions differ from PyTorch's.
    """
    policy = load_policy(checkpoint, trust=[trust] if isinstance(trust, str) else trust or [])
    if policy.encoder.prompt is not None:
        raise ValueError(
            f"{checkpoint}: expected a policy that reads the instruction as it is, got the prompt "
            f"{policy.encoder.prompt.template!r}, which the graph cannot write. Serve it with "
            "`e0 serve` instead."
        )
    language, folder = policy.encoder.language, Path(out)
    graph = ActGraph(
        policy, example_observation(policy.spec), instruction_tokens or language.max_tokens
    ).eval()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_onnx(graph, folder / "act.onnx")
    except ImportError as error:
        raise ValueError(
            f"export: expected {error.name}, which is not installed: "
            "pip install 'e0-lightning[export]'."
        ) from error
    is_bytes = isinstance(language.tokenizer, ByT5Tokenizer)
    if not is_bytes:
        language.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "format": format,
        "inputs": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in graph.inputs.items()
        },
        "samples": graph.samples,
        "tokenizer": "bytes" if is_bytes else "tokenizer.json",
        "spec": policy.spec.as_dict(),
    }
    (folder / "act.json").write_text(json.dumps(settings, indent=2))
    shutil.copyfile(Path(__file__).with_name("runner.py"), folder / "runner.py")
    print(compare(graph, folder))


def compare(graph: ActGraph, folder: Path) -> str:
    """Compare an exported graph with PyTorch on equal inputs.

    Returns:
        One line: difference, and the median latency of both with one thread.

    Raises:
        ValueError: If the actions differ by more than 1e-5.
    """
    exported = ExportedPolicy(folder)
    arrays = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            actions = graph(*graph.inputs.values())
            own = _median_milliseconds(lambda: graph(*graph.inputs.values()))
    finally:
        torch.set_num_threads(threads)
    theirs = _median_milliseconds(lambda: exported.run(arrays))
    difference = float((torch.as_tensor(exported.run(arrays)) - actions).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(actions.abs().max())):
        raise ValueError(
            f"{folder}: expected PyTorch's actions within {TOLERANCE:g}, got a difference of "
            f"{difference:g}. Try another version of onnxruntime."
        )
    return (
        f"{folder}: actions differ from PyTorch's by at most {difference:.1e}; "
        f"{exported.settings['format']} {theirs:.1f} ms, PyTorch {own:.1f} ms"
    )


def _write_onnx(graph: ActGraph, path: Path) -> None:
    with torch.no_grad():
        torch.onnx.export(
            graph,
            tuple(graph.inputs.values()),
            str(path),
            input_names=[*graph.inputs],
            output_names=["actions"],
            dynamo=True,
            optimize=False,  # the runtimes do so when they open the graph, in seconds not minutes
            verbose=False,
        )


def _median_milliseconds(run: Callable[[], object], repeats: int = 9) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return sorted(times)[repeats // 2] * 1e3
