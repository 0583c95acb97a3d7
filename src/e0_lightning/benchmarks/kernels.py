"""Matrix products and attention kernels that a computation calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")
ATTENTION = {
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_flash_attention_for_cpu": "flash (cpu)",
    "_scaled_dot_product_efficient_attention": "memory-efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_fused_attention_overrideable": "fused (device's own)",
}
"""Fused kernels of ``scaled_dot_product_attention`` by operator; without one it is plain matrix
products, ``math``."""


class KernelRecorder(TorchDispatchMode):
    """Context that records the calls of matrix products and attention, with their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self.attention: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Record an operator, and call it."""
        name, options = func.overloadpacket.__name__, kwargs or {}
        if name not in PRODUCTS and name not in ATTENTION:
            with self:
                # Composite operators arrive whole in inference mode.
                result = func.decompose(*args, **options)
            return func(*args, **options) if result is NotImplemented else result
        if name in ATTENTION and ATTENTION[name] not in self.attention:
            self.attention.append(ATTENTION[name])
        self.calls.append(lambda: func(*args, **options))
        return func(*args, **options)

    def replay(self) -> None:
        """Call the products and the attention again, on the same operands, and nothing else."""
        for call in self.calls:
            call()


def record_kernels(run: Callable[[], object]) -> KernelRecorder:
    """Record the matrix products and the attention kernels of a function."""
    recorder = KernelRecorder()
    with recorder:
        run()
    return recorder
