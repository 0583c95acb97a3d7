import pytest
import torch
from transformers import AutoModel, DynamicCache

from e0_lightning.networks.language import LanguageModel

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture(params=["llama", "gemma", "qwen3", "gemma3_text"])
def language(request):
    torch.manual_seed(0)
    return LanguageModel(config={"model_type": request.param, **SHAPE}).eval()


def test_keys_and_values_have_the_documented_shape(language):
    embedded, mask = language.embed(["push the cube", "stop"], torch.device("cpu"))
    keys, values = language(embedded, mask)
    assert len(keys) == len(values) == language.depth == 2
    assert (
        keys[0].shape == (2, language.kv_heads, mask.shape[1], language.head_dim) == (2, 2, 14, 8)
    )


def test_padding_does_not_change_other_tokens(language):
    alone, _ = language(*language.embed(["stop"], torch.device("cpu")))
    together, _ = language(*language.embed(["stop", "push the cube"], torch.device("cpu")))
    for short, padded in zip(alone, together, strict=True):
        torch.testing.assert_close(short[0], padded[0, :, : short.shape[2]], atol=1e-5, rtol=1e-5)


def test_attention_is_bidirectional(language):
    embedded, mask = language.embed(["push"], torch.device("cpu"))
    changed = embedded.clone()
    changed[:, -1] += 1
    before, after = language(embedded, mask)[0][1], language(changed, mask)[0][1]
    assert (before[0, :, 0] - after[0, :, 0]).abs().max() > 1e-4


def test_keys_and_values_are_differentiable(language):
    embedded, mask = language.embed(["push"], torch.device("cpu"))
    keys, values = language(embedded, mask)
    (keys[1].sum() + values[1].sum()).backward()
    assert language.model.get_input_embeddings().weight.grad.abs().max() > 0


def test_weights_without_effect_on_keys_and_values_are_frozen(language):
    embedded, mask = language.embed(["push"], torch.device("cpu"))
    keys, values = language(embedded, mask)
    sum(part.sum() for part in (*keys, *values)).backward()
    unused = {name for name, p in language.model.named_parameters() if p.grad is None}
    assert unused == {n for n, p in language.model.named_parameters() if not p.requires_grad}
    assert "norm.weight" in unused


def test_gradient_checkpointing_gives_the_same_gradients(language):
    embedded, mask = language.embed(["push the cube", "stop"], torch.device("cpu"))

    def gradients():
        language.zero_grad()
        keys, values = language(embedded.detach().requires_grad_(), mask)
        sum(part.square().sum() for part in (*keys, *values)).backward()
        return {n: p.grad for n, p in language.model.named_parameters() if p.grad is not None}

    language.train()
    plain = gradients()
    language.recompute()
    recomputed = gradients()
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_keys_equal_those_of_transformers_with_a_bidirectional_mask():
    torch.manual_seed(0)
    language = LanguageModel(config={"model_type": "llama", **SHAPE}).eval()
    reference = AutoModel.from_config(language.model.config, attn_implementation="eager").eval()
    reference.load_state_dict(language.model.state_dict())
    embedded, mask = language.embed(["push the cube"], torch.device("cpu"))
    cache = DynamicCache()
    reference(
        inputs_embeds=embedded,
        attention_mask=torch.zeros(1, 1, mask.shape[1], mask.shape[1]),
        past_key_values=cache,
    )
    keys, _ = language(embedded, mask)
    torch.testing.assert_close(keys[1], cache.layers[1].keys, atol=1e-5, rtol=1e-5)


def test_a_pretrained_folder_is_loaded_with_its_weights(tmp_path):
    scratch = LanguageModel(config={"model_type": "llama", **SHAPE})
    scratch.model.save_pretrained(tmp_path)
    loaded = LanguageModel(name=str(tmp_path), tokenizer="byt5")
    assert torch.equal(loaded.model.embed_tokens.weight, scratch.model.embed_tokens.weight)


def test_half_precision_weights_are_loaded_in_float32(tmp_path):
    LanguageModel(config={"model_type": "llama", **SHAPE}).model.bfloat16().save_pretrained(
        tmp_path
    )
    loaded = LanguageModel(name=str(tmp_path), tokenizer="byt5")
    again = LanguageModel(**loaded.settings())
    for language in (loaded, again):
        assert {weight.dtype for weight in language.parameters()} == {torch.float32}


def test_the_attention_implementation_is_kept(tmp_path):
    config = {"model_type": "llama", **SHAPE}
    LanguageModel(config=config).model.save_pretrained(tmp_path)
    models = [
        LanguageModel(config=config, attention="eager"),
        LanguageModel(config={**config, "attn_implementation": "eager"}),
        LanguageModel(name=str(tmp_path), tokenizer="byt5", attention="eager"),
    ]
    models.append(LanguageModel(**models[-1].settings()))
    for language in models:
        assert language.model.config._attn_implementation == "eager"


def test_long_instructions_are_refused_not_truncated():
    language = LanguageModel(config={"model_type": "llama", **SHAPE}, max_tokens=8)
    with pytest.raises(ValueError, match="max_tokens: expected at most 8 tokens, got 14"):
        language.embed(["push the cube"], torch.device("cpu"))


def test_config_and_name_are_mutually_exclusive():
    with pytest.raises(ValueError, match="either config"):
        LanguageModel()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_can_be_built_with_gradients_disabled(mode):
    with mode():
        language = LanguageModel(config={"model_type": "llama", **SHAPE})
    assert any(not weight.requires_grad for weight in language.parameters())


def test_a_missing_tokenizer_is_refused_with_a_hint():
    config = {"model_type": "llama", "hidden_size": 32}
    with pytest.raises(ValueError, match=r"tokenizer: expected .* got './no/such/place' .* log in"):
        LanguageModel(config=config, tokenizer="./no/such/place")
