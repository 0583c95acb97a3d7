"""A policy's weights spread over processes (FSDP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from e0_lightning.networks.action_expert import ExpertLayer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Whatever is called from outside gathers the weights it needs.
ENTRANCES = (
    "training_step",
    "validation_step",
    "test_step",
    "predict_step",
    "act",
    "sample_actions",
)


def shard(policy: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the weights of a policy over the processes of a mesh.

    Layers of the expert and blocks of the vision backbone are gathered one at a time; all else,
    the language model too, at once: its keys and values leave its layers by the side, past the
    hooks that would gather a layer's weights again for the backward pass.

    Args:
        policy: With its weights loaded, the same in every process, as from the same seed; sharding
            it twice changes nothing.
        mesh: The processes among which a batch is split, in one dimension.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(policy, FSDPModule):
        return
    for module in policy.modules():
        if isinstance(module, ExpertLayer):
            fully_shard(module, mesh=mesh)
    for block in getattr(policy.get_submodule("encoder.vision.backbone"), "blocks", []):
        fully_shard(block, mesh=mesh)
    # Kept whole after a forward pass, they would be stale once averaged weights are swapped in.
    fully_shard(policy, mesh=mesh, reshard_after_forward=True)
    for name in ENTRANCES:
        register_fsdp_forward_method(policy, name)
