import json

import pytest
import torch

from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import plan
from e0_lightning.weights.shards import find_shards, read_names, read_tensors

from .weights_world import tiny_paligemma, tiny_pi05, tiny_policy, write


@pytest.fixture
def tensors():
    return tiny_paligemma().state_dict()


def fill_tiny(tensors):
    return load_mapped(dict(tiny_policy().named_parameters()), tensors.items(), plan(tensors))


class Payload:
    def __reduce__(self):
        return (exit, ("a pickle was executed",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickle_is_refused_and_not_opened(tmp_path, name):
    torch.save(Payload(), tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=r"pickle.*safetensors"):
            find_shards(str(source))


def test_a_pickle_that_calls_itself_safetensors_is_not_opened(tmp_path):
    torch.save(Payload(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        read_names(find_shards(str(tmp_path)))


def test_a_truncated_shard_is_named(tmp_path, tensors):
    path = tmp_path / "model-00001-of-00001.safetensors"
    write(tensors, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"00001\.safetensors is no whole safetensors file"):
        list(read_tensors(find_shards(str(tmp_path))))


def test_a_missing_shard_is_named(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"00001-of-00002.safetensors'\] are missing"):
        find_shards(str(tmp_path))


def test_only_the_files_of_the_index_are_read(tmp_path, tensors):
    write(tensors, tmp_path / "model-00001-of-00001.safetensors")
    write({"extra": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "extra" not in read_names(find_shards(str(tmp_path)))


def test_a_missing_tensor_is_named(tensors):
    del tensors["model.vision_tower.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.weight"):
        fill_tiny(tensors)


def test_another_width_names_both_shapes(tensors):
    name = "model.multi_modal_projector.linear.weight"
    tensors[name] = torch.zeros(64, 32)
    with pytest.raises(ValueError, match=r"projector\.weight takes \(48, 32\)"):
        fill_tiny(tensors)


def test_more_layers_than_the_model_has_are_another_architecture(tensors):
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    tensors[name.replace("layers.1", "layers.7")] = tensors[name]
    with pytest.raises(ValueError, match="has no counterpart"):
        fill_tiny(tensors)


def test_weights_of_something_else_are_refused():
    with pytest.raises(ValueError, match="have no place in PaliGemma"):
        fill_tiny({f"transformer.h.{index}.weight": torch.zeros(2) for index in range(20)})


def test_a_shorter_vocabulary_fills_the_first_rows(tensors):
    name = "model.language_model.embed_tokens.weight"
    short = dict(tensors) | {name: tensors[name][:300]}
    policy = tiny_policy()
    load_mapped(dict(policy.named_parameters()), short.items(), plan(short))
    weight = policy.encoder.language.model.embed_tokens.weight
    assert torch.equal(weight[:300], tensors[name][:300])


def test_half_precision_is_widened(tensors):
    policy = tiny_policy()
    half = {name: tensor.bfloat16() for name, tensor in tiny_pi05().items()}
    load_mapped(dict(policy.named_parameters()), half.items(), plan(half))
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
