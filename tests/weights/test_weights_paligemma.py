import pytest
import torch
from transformers import DynamicCache

from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import openpi_mapping
from e0_lightning.weights.shards import find_shards, read_names, read_tensors

from .weights_tiny_models import SIDE, VOCABULARY, tiny_paligemma, tiny_policy

TEXT_TOKENS = [[5, 9, 17, 33], [2, 250, 61, 7]]


def imported(source):
    policy = tiny_policy().eval()
    shards = find_shards(str(source))
    report = load_mapped(
        dict(policy.named_parameters()), read_tensors(shards), openpi_mapping(read_names(shards))
    )
    return policy, report


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Transformers' model, a policy with its weights, and the report."""
    folder = tmp_path_factory.mktemp("paligemma")
    reference = tiny_paligemma()
    reference.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return reference, *imported(folder)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=generator).to(torch.uint8)


@torch.no_grad()
def test_image_features_equal_those_of_transformers(loaded, images):
    reference, policy, _ = loaded
    encoder = policy.encoder
    features = encoder.projector(encoder.vision(images))
    expected = reference.model.get_image_features(images / 255 * 2 - 1).pooler_output
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_states_keys_and_values_equal_those_of_transformers(loaded, images):
    reference, policy, _ = loaded
    encoder = policy.encoder
    text = torch.tensor(TEXT_TOKENS)
    pictures = encoder.projector(encoder.vision(images))
    embedded = torch.cat([pictures, encoder.language.model.get_input_embeddings()(text)], dim=1)
    hidden = []
    hook = encoder.language.model.register_forward_hook(
        lambda module, args, output: hidden.append(output.last_hidden_state)
    )
    keys, values = encoder.language(embedded, torch.ones(embedded.shape[:2], dtype=torch.bool))
    hook.remove()
    ids = torch.cat([torch.full(pictures.shape[:2], VOCABULARY - 1), text], dim=1)
    cache = DynamicCache()
    expected = reference.model(
        input_ids=ids,
        pixel_values=images / 255 * 2 - 1,
        position_ids=torch.arange(ids.shape[1])[None],  # by default they start at 1
        token_type_ids=torch.zeros_like(ids),  # bidirectional attention
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        use_cache=True,
    )
    torch.testing.assert_close(hidden[0], expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert len(keys) == len(cache.layers) == 2
    for layer, key, value in zip(cache.layers, keys, values, strict=True):
        torch.testing.assert_close(key, layer.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(value, layer.values, atol=1e-5, rtol=1e-5)


def test_every_tensor_is_reported(loaded):
    _, policy, report = loaded
    names = dict(policy.named_parameters())
    assert report.unexpected == []
    assert sorted(report.loaded + report.missing) == sorted(names)
    new = ("expert.", "projection.", "encoder.state.", "encoder.view_offset.")
    assert {name for name in names if not name.startswith(new)} == set(report.loaded)
    assert any("attn.qkv.weight <- " in line for line in report.reshaped)
    assert "loaded" in str(report).splitlines()[-1]


def test_names_of_older_files_are_mapped(loaded, tmp_path):
    from .weights_tiny_models import write

    reference, policy, _ = loaded
    old = {}
    for name, tensor in reference.state_dict().items():
        short = name.removeprefix("model.")
        if short == "lm_head.weight":
            continue
        short = short.replace("language_model.", "language_model.model.")
        old[short.replace("vision_tower.", "vision_tower.vision_model.")] = tensor
    again, _ = imported(write(old, tmp_path / "old.safetensors"))
    for name, parameter in again.encoder.named_parameters():
        if not name.startswith(("state.", "view_offset.")):
            assert torch.equal(parameter, policy.encoder.get_parameter(name)), name
