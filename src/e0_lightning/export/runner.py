"""Runs an exported policy with numpy and onnxruntime; imports neither torch nor e0.

A copy of this file lies beside every exported policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ExportedPolicy:
    """A policy that `e0 export` has written to a folder.

    Args:
        folder: Folder with ``act.json``, the graph and, unless tokens are bytes, ``tokenizer.json``
            (which needs the package tokenizers).
        num_threads: Threads of the runtime.
    """

    def __init__(self, folder: str | Path, num_threads: int = 1) -> None:
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads((self.folder / "act.json").read_text())
        self.inputs: dict[str, dict[str, Any]] = self.settings["inputs"]
        self._run = _open_graph(self.folder / "act.onnx", num_threads)

    def act(
        self,
        images: dict[str, Array],
        instruction: str,
        state: Array,
        history: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Array:
        """Choose the next H actions, ``(H, D)``, robot units.

        Args:
            images: View to ``(3, h, w)`` uint8, in the sizes of the policy's spec.
            instruction: A sentence.
            state: ``(Q,)``, robot units.
            history: ``images`` (view to ``(m, 3, h, w)``) and ``state`` ``(m, Q)`` of the steps
                before, if the policy observes them.
            seed: Seed of the random samples; None is a new one.
        """
        past = history or {"images": {}}
        given = {f"image.{view}": frames for view, frames in images.items()}
        given |= {f"history.image.{view}": frames for view, frames in past["images"].items()}
        given["state"] = state
        if history is not None:
            given["history.state"] = history["state"]
        tensors = {name: np.asarray(value)[None] for name, value in given.items()}
        tensors |= self.tokenize(instruction) | self.sample(seed)
        actions: Array = self.run(tensors)[0]
        return actions

    def run(self, tensors: dict[str, Array]) -> Array:
        """Actions ``(1, H, D)`` for all inputs of the graph, by name.

        Raises:
            ValueError: If an input is missing, unknown, or has another shape.
        """
        expected = {name: tuple(each["shape"]) for name, each in self.inputs.items()}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != expected:
            raise ValueError(f"inputs: expected {expected}, got {found}.")
        return self._run(
            {name: tensor.astype(self.inputs[name]["dtype"]) for name, tensor in tensors.items()}
        )

    def sample(self, seed: int | None = None) -> dict[str, Array]:
        """The random samples of one action chunk."""
        generator = np.random.default_rng(seed)
        sample: dict[str, Callable[..., Any]] = {
            "normal": generator.standard_normal,
            "uniform": generator.random,
        }
        return {
            name: sample[distribution](self.inputs[name]["shape"]).astype(np.float32)
            for name, distribution in self.settings["samples"].items()
        }

    def tokenize(self, instruction: str) -> dict[str, Array]:
        """Token ids of an instruction and their mask, padded to the length of the graph.

        Raises:
            ValueError: If the instruction is longer.
        """
        if self.settings["tokenizer"] == "bytes":
            # ByT5: three special tokens, then the bytes; 1 ends the sentence.
            ids = [byte + 3 for byte in instruction.encode()] + [1]
        else:
            from tokenizers import Tokenizer

            ids = Tokenizer.from_file(str(self.folder / "tokenizer.json")).encode(instruction).ids
        length = self.inputs["token_ids"]["shape"][1]
        if len(ids) > length:
            raise ValueError(
                f"instruction: expected at most {length} tokens, got {len(ids)} for "
                f"{instruction!r}. Shorten it, or export with more --instruction-tokens."
            )
        padding = [0] * (length - len(ids))
        return {
            "token_ids": np.array([ids + padding], dtype=np.int64),
            "token_mask": np.array([[1] * len(ids) + padding], dtype=np.int64),
        }


def _open_graph(path: Path, num_threads: int) -> Callable[[dict[str, Array]], Array]:
    """Open a graph as a function from arrays by name to the action chunk."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda tensors: np.asarray(session.run(None, tensors)[0])
