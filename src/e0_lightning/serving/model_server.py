"""A policy as a vla-eval model server, for ``vla_eval.evaluate`` in one process."""

from __future__ import annotations

from typing import Any

from e0_lightning.key_map import load_key_map
from e0_lightning.serving.batching import sample_actions
from e0_lightning.serving.parser import ObservationParser, stack
from e0_lightning.serving.protocols.vla_eval import dim_specs
from e0_lightning.types import Actor


def model_server(
    actor: Actor,
    key_map: str = "plain",
    instruction: str | None = None,
    max_batch: int = 16,
    n_action_steps: int | None = None,
) -> Any:
    """Build a model server for ``vla_eval.evaluate``.

    Args:
        actor: The policy.
        key_map: Name or YAML file of the benchmark's key map.
        instruction: Instruction for observations without one.
        max_batch: Most sessions in a forward pass.
        n_action_steps: Steps of a chunk that are executed before the next inference; None for
            all of it.

    Returns:
        A ``vla_eval.model_servers.predict.PredictModelServer``.

    Raises:
        ValueError: If the key map does not fit the policy's spec, or the policy observes several
            steps.
    """
    from vla_eval.model_servers.predict import PredictModelServer
    from vla_eval.specs import DimSpec

    if actor.spec.n_obs_steps > 1:
        raise ValueError(
            "n_obs_steps: expected 1 for a model server in one process, which is given no "
            f"observation during a chunk, got {actor.spec.n_obs_steps}. Use `e0 serve`."
        )
    parser = ObservationParser(load_key_map(key_map), actor.spec, instruction, n_action_steps)
    actions, observations = dim_specs(parser)

    class PolicyModelServer(PredictModelServer):  # type: ignore[misc]
        """Returns the next action of the session's chunk for every observation."""

        def predict_batch(self, obs_batch: list[Any], ctx_batch: list[Any]) -> list[Any]:
            """Chunks ``(H, D)`` of several sessions in one forward pass."""
            sample = sample_actions(actor, stack([parser.parse(each) for each in obs_batch]))
            return [{"actions": chunk.float().cpu().numpy()} for chunk in sample.actions]

        def get_action_spec(self) -> dict[str, Any]:
            """Components of the actions."""
            return {name: DimSpec.from_dict(spec) for name, spec in actions.items()}

        def get_observation_spec(self) -> dict[str, Any]:
            """Components of the observations that the policy needs."""
            return {name: DimSpec.from_dict(spec) for name, spec in observations.items()}

        def get_observation_params(self) -> dict[str, Any]:
            """Parameters requested from the benchmark."""
            return dict(parser.key_map.client.observation_params)

    return PolicyModelServer(chunk_size=parser.n_action_steps, max_batch_size=max_batch)
