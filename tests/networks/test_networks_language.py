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


def test_keys_and_values_have_the_declared_layout(language):
    embedded, mask = language.embed(["push the cube", "stop"], torch.device("cpu"))
    keys, values = language(embedded, mask)
    assert len(keys) == len(values) == language.depth == 2
    assert (
        keys[0].shape == (2, language.kv_heads, mask.shape[1], language.head_dim) == (2, 2, 14, 8)
    )


def test_padding_changes_no_other_token(language):
    alone, _ = language(*language.embed(["stop"], torch.device("cpu")))
    together, _ = language(*language.embed(["stop", "push the cube"], torch.device("cpu")))
    for short, padded in zip(alone, together, strict=True):
        torch.testing.assert_close(short[0], padded[0, :, : short.shape[2]], atol=1e-5, rtol=1e-5)


def test_every_token_sees_every_other(language):
    embedded, mask = language.embed(["push"], torch.device("cpu"))
    changed = embedded.clone()
    changed[:, -1] += 1
    before, after = language(embedded, mask)[0][1], language(changed, mask)[0][1]
    assert (before[0, :, 0] - after[0, :, 0]).abs().max() > 1e-4


def test_gradients_flow_through_the_cache(language):
    embedded, mask = language.embed(["push"], torch.device("cpu"))
    keys, values = language(embedded, mask)
    (keys[1].sum() + values[1].sum()).backward()
    assert language.model.get_input_embeddings().weight.grad.abs().max() > 0


def test_weights_that_no_key_or_value_depends_on_are_not_trained(language):
    embedded, mask = language.embed(["push"], torch.device("cpu"))
    keys, values = language(embedded, mask)
    sum(part.sum() for part in (*keys, *values)).backward()
    idle = {name for name, p in language.model.named_parameters() if p.grad is None}
    assert idle == {n for n, p in language.model.named_parameters() if not p.requires_grad}
    assert "norm.weight" in idle


def test_layers_recomputed_give_the_same_gradients(language):
    embedded, mask = language.embed(["push the cube", "stop"], torch.device("cpu"))

    def gradients():
        language.zero_grad()
        keys, values = language(embedded.detach().requires_grad_(), mask)
        sum(part.square().sum() for part in (*keys, *values)).backward()
        return {n: p.grad for n, p in language.model.named_parameters() if p.grad is not None}

    language.train()
    plain = gradients()
    language.recompute()
    again = gradients()
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_layers_equal_transformers_own_with_an_open_mask():
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


def test_pretrained_folder_is_loaded_with_its_weights(tmp_path):
    scratch = LanguageModel(config={"model_type": "llama", **SHAPE})
    scratch.model.save_pretrained(tmp_path)
    loaded = LanguageModel(name=str(tmp_path), tokenizer="byt5")
    assert torch.equal(loaded.model.embed_tokens.weight, scratch.model.embed_tokens.weight)


def test_weights_stored_in_half_precision_are_trained_in_single(tmp_path):
    LanguageModel(config={"model_type": "llama", **SHAPE}).model.bfloat16().save_pretrained(
        tmp_path
    )
    loaded = LanguageModel(name=str(tmp_path), tokenizer="byt5")
    again = LanguageModel(**loaded.settings())
    for language in (loaded, again):
        assert {weight.dtype for weight in language.parameters()} == {torch.float32}


def test_attention_is_the_one_that_was_asked_for(tmp_path):
    config = {"model_type": "llama", **SHAPE}
    LanguageModel(config=config).model.save_pretrained(tmp_path)
    asked = [
        LanguageModel(config=config, attention="eager"),
        LanguageModel(config={**config, "attn_implementation": "eager"}),
        LanguageModel(name=str(tmp_path), tokenizer="byt5", attention="eager"),
    ]
    asked.append(LanguageModel(**asked[-1].settings()))
    for language in asked:
        assert language.model.config._attn_implementation == "eager"


def test_long_instruction_is_refused_not_cut():
    language = LanguageModel(config={"model_type": "llama", **SHAPE}, max_tokens=8)
    with pytest.raises(ValueError, match=r"has 14 tokens.*max_tokens is 8"):
        language.embed(["push the cube"], torch.device("cpu"))


def test_config_and_name_exclude_each_other():
    with pytest.raises(ValueError, match="either config"):
        LanguageModel()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_can_be_built_where_gradients_are_off(mode):
    with mode():
        language = LanguageModel(config={"model_type": "llama", **SHAPE})
    assert any(not weight.requires_grad for weight in language.parameters())


def test_a_tokenizer_that_is_nowhere_is_named_with_what_to_do():
    config = {"model_type": "llama", "hidden_size": 32}
    with pytest.raises(ValueError, match=r"tokenizer: './no/such/place' is no folder .* log in"):
        LanguageModel(config=config, tokenizer="./no/such/place")
