import pytest
import torch

from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import openpi_mapping

from .weights_tiny_models import tiny_paligemma, tiny_pi05, tiny_policy


@pytest.fixture
def tensors():
    return tiny_paligemma().state_dict()


def load_into_tiny_policy(tensors):
    policy = tiny_policy()
    load_mapped(dict(policy.named_parameters()), tensors.items(), openpi_mapping(tensors))
    return policy


def test_missing_tensor_is_an_error_that_names_it(tensors):
    del tensors["model.vision_tower.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.weight"):
        load_into_tiny_policy(tensors)


def test_shape_mismatch_is_an_error_with_both_shapes(tensors):
    tensors["model.multi_modal_projector.linear.weight"] = torch.zeros(64, 32)
    message = r"expected \(48, 32\) for encoder\.projector\.weight, got \(64, 32\)"
    with pytest.raises(ValueError, match=message):
        load_into_tiny_policy(tensors)


def test_more_layers_than_the_policy_has_are_refused(tensors):
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    tensors[name.replace("layers.1", "layers.7")] = tensors[name]
    with pytest.raises(ValueError, match="has no counterpart"):
        load_into_tiny_policy(tensors)


def test_checkpoint_of_another_architecture_is_refused():
    with pytest.raises(ValueError, match="Expected a checkpoint of PaliGemma, got 20 tensors"):
        load_into_tiny_policy({f"transformer.h.{n}.weight": torch.zeros(2) for n in range(20)})


def test_smaller_vocabulary_fills_the_first_rows(tensors):
    name = "model.language_model.embed_tokens.weight"
    policy = load_into_tiny_policy(dict(tensors) | {name: tensors[name][:300]})
    weight = policy.encoder.language.model.embed_tokens.weight
    assert torch.equal(weight[:300], tensors[name][:300])


def test_half_precision_checkpoint_is_loaded_in_single_precision():
    policy = load_into_tiny_policy({name: t.bfloat16() for name, t in tiny_pi05().items()})
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
