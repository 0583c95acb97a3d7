"""Text that the language model reads: the instruction, and the state in words (π0, π0.5)."""

from __future__ import annotations

import torch
from torch import Tensor

STATE_BINS = 256


class Prompt:
    r"""Writes an instruction, and the state if the template has it, into a text.

    Instructions are written as openpi does, without surrounding spaces and with spaces for
    underscores and line breaks.

    Args:
        template: Text with ``{instruction}`` and at most ``{state}``. π0's ends with a line break;
            π0.5's is ``"Task: {instruction}, State: {state};\nAction: "``.

    Raises:
        ValueError: If the template has no ``{instruction}``, or another field.
    """

    def __init__(self, template: str = "{instruction}\n") -> None:
        try:
            template.format(instruction="", state="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                "prompt.template: expected no fields but {instruction} and {state}, got "
                f"{template!r} ({error!r})."
            ) from error
        if "{instruction}" not in template:
            raise ValueError(f"prompt.template: expected {{instruction}} in it, got {template!r}.")
        self.template = template

    @property
    def has_state(self) -> bool:
        """Whether the template has the state."""
        return "{state}" in self.template

    def __call__(self, instructions: list[str], state: Tensor) -> list[str]:
        """Write the texts of B instructions.

        Args:
            instructions: B sentences.
            state: Normalized state ``(B, Q)``, written as the indices of its bins, 256 even ones
                over [-1, 1]; −1 is below them, and the last includes all above.
        """
        return [
            self.template.format(
                instruction=text.strip().replace("_", " ").replace("\n", " "), state=words
            )
            for text, words in zip(instructions, self._words(state), strict=True)
        ]

    def _words(self, state: Tensor) -> list[str]:
        """The indices of each row, as text; empty where the template has no state."""
        if not self.has_state:
            return [""] * len(state)
        # Memory is estimated with tensors without values.
        values = torch.zeros(state.shape) if state.is_meta else state.detach().cpu()
        edges = torch.linspace(-1, 1, STATE_BINS + 1, dtype=torch.float64)[:-1]
        bins = torch.bucketize(values.double(), edges, right=True) - 1
        return [" ".join(map(str, row)) for row in bins.tolist()]
