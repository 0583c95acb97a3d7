import lightning.pytorch as pl
import pytest
import torch

from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.training.finetuning import FineTuning, part_of

from .conftest import make_batch, tiny_settings
from .test_policies_base import ChunkDataset, trainer


def tiny(**fine_tuning):
    torch.manual_seed(0)
    return build_policy(tiny_settings("Regression", fine_tuning=fine_tuning))


def fit(policy, folder, steps=3, **options):
    runner = trainer(folder, max_steps=steps, **options)
    runner.fit(policy, datamodule=ChunkDataset())
    return runner


def step(policy):
    """Loss and gradients of one batch."""
    policy.configure_model()
    policy.train()
    policy.actions.normalizer.fit(make_batch()["actions"].flatten(0, 1))
    policy.state_normalizer.fit(make_batch()["state"])
    loss = torch.stack(list(policy._losses(make_batch()).values())).sum()
    loss.backward()
    return loss, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"compile": "aot_eager"}])
def test_a_cheaper_step_is_the_plain_step(change):
    plain, gradients = step(tiny())
    other, found = step(tiny(**change))
    torch.testing.assert_close(other, plain, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == found.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_recomputed_layers_keep_fewer_activations():
    kept = {}
    for on in (False, True):
        sizes = []
        policy = tiny(gradient_checkpointing=on)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor, lambda kept: kept
        )
        with hooks:
            step(policy)
        kept[on] = sum(sizes)
    assert kept[True] < 0.7 * kept[False]


def test_adapters_change_nothing_until_they_are_trained():
    plain, _ = step(tiny())
    adapted, gradients = step(tiny(lora={"vision": 2, "language": 2, "expert": 2}))
    torch.testing.assert_close(adapted, plain, atol=1e-5, rtol=1e-5)
    trained = {part_of(name) for name in gradients if "lora_" not in name}
    assert trained == {"other"}
    assert {part_of(name) for name in gradients if "lora_" in name} == {
        "vision",
        "language",
        "expert",
    }


def test_every_adapter_of_a_language_model_is_trained():
    policy = tiny(lora={"language": 2})
    step(policy)
    adapters = [weight for name, weight in policy.named_parameters() if "lora_" in name]
    assert adapters
    assert all(weight.grad is not None for weight in adapters)


def test_a_checkpoint_with_adapters_and_averaging_is_enough(tmp_path):
    policy = tiny(lora={"language": 2})
    before = policy.encoder.language.model.layers[0].self_attn.q_proj.weight.clone()
    averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)
    runner = fit(policy, tmp_path, callbacks=[averaging])
    adapted = policy.encoder.language.model.layers[0].self_attn.q_proj
    assert torch.equal(adapted.base_layer.weight, before)
    assert adapted.lora_B["default"].weight.abs().max() > 0
    runner.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_policy(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.act(make_batch()), policy.eval().act(make_batch()))


def test_a_rate_of_zero_freezes_a_part_and_others_scale(tmp_path):
    policy = tiny(lr_multipliers={"vision": 0, "expert": 0.1})
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    runner = fit(policy, tmp_path)
    lr_multipliers = sorted({group["initial_lr"] for group in runner.optimizers[0].param_groups})
    assert lr_multipliers == pytest.approx([3e-4, 3e-3])
    moved = {part_of(n) for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"language", "expert", "other"}


def test_fit_starts_from_weights_and_from_nothing_else_of_a_checkpoint(tmp_path):
    source = tiny()
    runner = fit(source, tmp_path)
    runner.save_checkpoint(tmp_path / "source.ckpt")
    torch.manual_seed(7)
    weights = str(tmp_path / "source.ckpt")
    started = build_policy(tiny_settings("Regression", weights=weights))
    ended = fit(started, tmp_path, steps=0)
    for name, parameter in started.named_parameters():
        assert torch.equal(parameter, source.get_parameter(name)), name
    ended.save_checkpoint(tmp_path / "started.ckpt")
    (tmp_path / "source.ckpt").unlink()
    load_policy(tmp_path / "started.ckpt")


def test_running_statistics_of_a_backbone_are_weights_too(tmp_path):
    settings = tiny_settings("Regression")
    settings["init_args"]["encoder"]["vision"] = {"name": "resnet10t", "stage": 2, "side": 32}
    source = build_policy(settings)
    fit(source, tmp_path).save_checkpoint(tmp_path / "source.ckpt")
    settings["init_args"]["weights"] = str(tmp_path / "source.ckpt")
    started = build_policy(settings)
    fit(started, tmp_path, steps=0)
    own, theirs = (dict(each.encoder.vision.named_buffers()) for each in (started, source))
    moved = [name for name in own if name.endswith("running_var")]
    assert moved
    assert all(torch.equal(own[name], theirs[name]) for name in moved)
    assert any((theirs[name] != 1).any() for name in moved)


def test_weights_of_other_networks_are_refused(tmp_path):
    fit(tiny(), tmp_path, steps=1).save_checkpoint(tmp_path / "source.ckpt")
    other = tiny_settings("Regression", weights=str(tmp_path / "source.ckpt"))
    other["init_args"]["expert"]["mlp"] = 32
    with pytest.raises(ValueError, match=r"expert\.layers\.0\.mlp.*\(32, 32\) here, \(64, 32\)"):
        fit(build_policy(other), tmp_path)


def test_a_part_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no such part"):
        FineTuning(lr_multipliers={"tower": 0.0})


def test_bf16_trains_weights_in_full_precision(tmp_path):
    policy = tiny(gradient_checkpointing=True, lora={"language": 2})
    fit(policy, tmp_path, precision="bf16-mixed")
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_a_checkpoint_needs_no_file_of_the_language_model_it_was_made_with(tmp_path):
    from e0_lightning.networks.language import LanguageModel

    settings = tiny_settings("Regression")
    language = settings["init_args"]["encoder"]["language"]
    folder = tmp_path / "language"
    LanguageModel(**language).model.save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    settings["init_args"]["encoder"]["language"] = {"name": str(folder)}
    policy = build_policy(settings)
    fit(policy, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    for path in folder.iterdir():
        path.unlink()
    loaded = load_policy(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.act(make_batch()), policy.eval().act(make_batch()))


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<pad>", "push", "the", "cube", "stop", "pick", "it", "up", "go"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", padding_side="left"
    )
