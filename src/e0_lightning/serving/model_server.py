"""A policy as a vla-eval model server, for ``vla_eval.evaluate`` within one process."""

from __future__ import annotations

from typing import Any

from e0_lightning.serving.key_map import load_key_map
from e0_lightning.serving.parser import ObservationParser, stack
from e0_lightning.serving.protocols.vla_eval import specs
from e0_lightning.types import Actor


def model_server(
    actor: Actor,
    layout: str = "plain",
    prompt: str | None = None,
    max_batch: int = 16,
    n_action_steps: int | None = None,
) -> Any:
    """Build a model server around a policy, to be given to ``vla_eval.evaluate``.

    Args:
        actor: The policy.
        layout: Name or YAML file of the benchmark's layout.
        prompt: Instruction for observations without one.
        max_batch: Most sessions in a forward pass.
        n_action_steps: Steps of a chunk that are carried out before the policy is asked again; None for
            all of it.

    Returns:
        A ``vla_eval.model_servers.predict.PredictModelServer``.

    Raises:
        ValueError: If the layout does not fit the policy's spec.
    """
    from vla_eval.model_servers.predict import PredictModelServer
    from vla_eval.specs import DimSpec

    reader = ObservationParser(load_key_map(layout), actor.spec, prompt, n_action_steps)
    actions, observations = specs(reader)

    class PolicyModelServer(PredictModelServer):  # type: ignore[misc]
        """Answers every observation with the next action of its session's chunk."""

        def predict_batch(self, obs_batch: list[Any], ctx_batch: list[Any]) -> list[Any]:
            """Chunks ``(H, D)`` of several sessions in one forward pass."""
            chunks = actor.act(stack([reader.read(one) for one in obs_batch]))
            return [{"actions": chunk.float().cpu().numpy()} for chunk in chunks]

        def get_action_spec(self) -> dict[str, Any]:
            """What the actions mean."""
            return {name: DimSpec.from_dict(spec) for name, spec in actions.items()}

        def get_observation_spec(self) -> dict[str, Any]:
            """What the policy must be shown."""
            return {name: DimSpec.from_dict(spec) for name, spec in observations.items()}

        def get_observation_params(self) -> dict[str, Any]:
            """What the benchmark is asked to send."""
            return dict(reader.layout.observation_params)

    return PolicyModelServer(chunk_size=reader.steps, max_batch_size=max_batch)
