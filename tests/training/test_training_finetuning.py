"""Fine-tuning options, over the families of vision backbones."""

import lightning.pytorch as pl
import pytest
import torch

from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.training.finetuning import FineTuning, part_of, repeated_blocks
from tiny_policy import InMemoryDemos, make_batch, new_policy, quiet_trainer, tiny_settings

BACKBONES = {
    "ViT": {"name": "test_vit", "size": 32},
    "ViT stage": {"name": "test_vit", "stage": 1, "size": 32},
    "ConvNeXt": {"name": "test_convnext", "size": 32},
    "ConvNeXt stage": {"name": "test_convnext", "stage": 1, "size": 32},
    "ResNet": {"name": "test_resnet", "stage": 2, "size": 32},
    "Swin": {
        "name": "swin_tiny_patch4_window7_224",
        "size": 32,
        "model_args": {
            "img_size": 32,
            "drop_path_rate": 0.0,
            "window_size": 2,
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
        },
    },
}
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def tiny(backbone="ViT", **fine_tuning):
    settings = tiny_settings("Regression", fine_tuning=fine_tuning)
    settings["init_args"]["encoder"]["vision"] = backbone and BACKBONES[backbone]
    return new_policy(settings)


def fit(policy, folder, steps=3, **options):
    trainer = quiet_trainer(folder, max_steps=steps, **options)
    trainer.fit(policy, datamodule=InMemoryDemos())
    return trainer


def step(policy):
    """Loss and gradients of one batch."""
    policy.configure_model()
    policy.train()
    policy.actions.normalizer.fit(make_batch()["actions"].flatten(0, 1))
    policy.state_normalizer.fit(make_batch()["state"])
    loss = torch.stack(list(policy.compute_losses(make_batch()).values())).sum()
    loss.backward()
    return loss, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


def assert_equal_steps(backbone, **change):
    """Assert that a change of how a step is computed keeps its loss and gradients."""
    plain, expected = step(tiny(backbone))
    loss, gradients = step(tiny(backbone, **change))
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


@each_backbone
def test_checkpointed_steps_equal_plain_ones(backbone):
    assert_equal_steps(backbone, gradient_checkpointing=True)


# Tracing takes long; the compiled blocks of the others are counted below.
@pytest.mark.parametrize("backbone", ["ViT", "ResNet", "ConvNeXt stage"])
def test_compiled_steps_equal_plain_ones(backbone):
    assert_equal_steps(backbone, compile="eager")


@each_backbone
def test_compilation_reaches_vision_language_and_expert(backbone):
    policy = tiny(backbone, compile="eager")
    policy.configure_model()
    for part in ("encoder.vision.backbone", "expert"):
        blocks = repeated_blocks(policy.get_submodule(part))
        assert blocks
        assert all(block._compiled_call_impl is not None for block in blocks)
    assert policy.encoder.language._compiled_call_impl is not None


def test_compiled_steps_with_checkpointing_equal_plain_ones():
    assert_equal_steps("ViT", compile="eager", gradient_checkpointing=True)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_all_layers_of_a_language_model_are_one_graph(gradient_checkpointing):
    policy = tiny(compile="eager", gradient_checkpointing=gradient_checkpointing)
    policy.configure_model()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    keys, _ = policy.encoder.language(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
    assert len(keys) == 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.fixture
def compiled_sizes():
    """Whether each graph that the backend ``recording`` compiled has sizes that are left open."""
    has_open_sizes = []

    def recording(graph, inputs):
        has_open_sizes.append(any(isinstance(value, torch.SymInt) for value in inputs))
        return graph

    torch._dynamo.reset()
    torch._dynamo.register_backend(recording, name="recording")
    yield has_open_sizes
    del torch._dynamo.backends.registry._BACKENDS["recording"]


# Inductor fails on convolutions whose sizes are open (PyTorch 2.14).
def test_convolutions_of_all_stages_are_compiled_for_their_sizes(compiled_sizes):
    policy = tiny("ConvNeXt", compile="recording")
    policy.configure_model()
    policy.encoder.vision.backbone(torch.randn(2, 3, 64, 64))
    assert len(compiled_sizes) > 1
    assert not any(compiled_sizes)


def test_compilation_of_a_network_without_blocks_is_refused():
    policy = tiny(compile="eager")
    policy.encoder.vision.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(ValueError, match="expected repeated blocks in vision, got none"):
        policy.configure_model()


@pytest.mark.parametrize("option", [{"compile": "eager"}, {"gradient_checkpointing": True}])
def test_a_policy_of_the_state_alone_takes_the_options(option):
    plain, expected = step(tiny(None))
    loss, gradients = step(tiny(None, **option))
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()


@pytest.mark.parametrize("option", [{"lr_multipliers": {"vision": 0.0}}, {"lora": {"vision": 2}}])
def test_options_of_a_part_that_the_policy_lacks_are_refused(option):
    with pytest.raises(ValueError, match="got vision, which a policy of the state alone"):
        step(tiny(None, **option))


def test_checkpointing_stores_fewer_activations():
    stored = {}
    for on in (False, True):
        sizes = []
        policy = tiny(gradient_checkpointing=on)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor, lambda kept: kept
        )
        with hooks:
            step(policy)
        stored[on] = sum(sizes)
    assert stored[True] < 0.7 * stored[False]


@each_backbone
def test_adapters_change_nothing_until_they_are_trained(backbone):
    ranks = {"vision": 2, "language": 2, "expert": 2}
    expected = tiny(backbone)
    adapted = tiny(backbone, lora=ranks)
    for policy in (expected, adapted):
        policy.configure_model()
        policy.eval()
        policy.fit_normalizers(InMemoryDemos())
    batch = make_batch()
    torch.testing.assert_close(adapted.act(batch), expected.act(batch), atol=1e-5, rtol=1e-5)
    _, gradients = step(adapted)
    assert {part_of(name) for name in gradients if "lora_" not in name} == {"other"}
    assert {part_of(name) for name in gradients if "lora_" in name} == set(ranks)


def test_every_adapter_of_a_language_model_is_trained():
    policy = tiny(lora={"language": 2})
    step(policy)
    adapters = [weight for name, weight in policy.named_parameters() if "lora_" in name]
    assert adapters
    assert all(weight.grad is not None for weight in adapters)


def test_adapters_without_a_layer_to_adapt_are_refused():
    policy = tiny(lora={"vision": 2})
    policy.encoder.vision.backbone = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, groups=4))
    with pytest.raises(ValueError, match=r"lora\['vision'\]: expected linear or ungrouped"):
        policy.configure_model()


@pytest.mark.parametrize("option", [{"lr_multipliers": {"vision": 0}}, {"lora": {"vision": 2}}])
def test_a_frozen_backbone_keeps_its_running_statistics(tmp_path, option):
    policy = tiny("ResNet", **option)
    before = {name: buffer.clone() for name, buffer in policy.encoder.vision.named_buffers()}
    fit(policy, tmp_path)
    policy.train()
    after = dict(policy.encoder.vision.named_buffers())
    assert any(name.endswith("running_var") for name in before)
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())


def test_a_trained_backbone_updates_its_running_statistics(tmp_path):
    policy = tiny("ResNet")
    fit(policy, tmp_path)
    buffers = dict(policy.encoder.vision.named_buffers())
    assert any((b != 1).any() for name, b in buffers.items() if name.endswith("running_var"))


def test_a_frozen_part_is_in_evaluation_mode_while_the_others_train():
    policy = tiny(lr_multipliers={"language": 0})
    policy.configure_model()
    policy.train()
    assert not any(module.training for module in policy.encoder.language.model.modules())
    assert policy.encoder.training
    assert policy.expert.training


def test_frozen_layers_still_recompute_their_activations():
    policy = tiny(lr_multipliers={"language": 0}, gradient_checkpointing=True)
    _, expected = step(tiny(lr_multipliers={"language": 0}))
    _, gradients = step(policy)
    assert any(module.training for module in policy.encoder.language.model.modules())
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("backbone", ["ResNet", "ConvNeXt stage"])
def test_a_checkpoint_with_adapters_is_loaded(backbone, tmp_path):
    policy = tiny(backbone, lora={"vision": 2})
    fit(policy, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_policy(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.act(make_batch()), policy.eval().act(make_batch()))


def test_a_checkpoint_with_adapters_and_averaging_is_loaded(tmp_path):
    policy = tiny(lora={"language": 2})
    before = policy.encoder.language.model.layers[0].self_attn.q_proj.weight.clone()
    averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)
    trainer = fit(policy, tmp_path, callbacks=[averaging])
    adapted = policy.encoder.language.model.layers[0].self_attn.q_proj
    assert torch.equal(adapted.base_layer.weight, before)
    assert adapted.lora_B["default"].weight.abs().max() > 0
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_policy(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.act(make_batch()), policy.eval().act(make_batch()))


def test_a_multiplier_of_0_freezes_a_part_and_others_scale_its_rate(tmp_path):
    policy = tiny(lr_multipliers={"vision": 0, "expert": 0.1})
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    trainer = fit(policy, tmp_path)
    rates = sorted({group["initial_lr"] for group in trainer.optimizers[0].param_groups})
    assert rates == pytest.approx([3e-4, 3e-3])
    changed = {part_of(n) for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"language", "expert", "other"}


def test_fit_starts_from_the_weights_of_a_checkpoint_and_nothing_else(tmp_path):
    source = tiny()
    fit(source, tmp_path).save_checkpoint(tmp_path / "source.ckpt")
    weights = str(tmp_path / "source.ckpt")
    started = build_policy(tiny_settings("Regression", weights=weights))
    trainer = fit(started, tmp_path, steps=0)
    for name, parameter in started.named_parameters():
        assert torch.equal(parameter, source.get_parameter(name)), name
    trainer.save_checkpoint(tmp_path / "started.ckpt")
    (tmp_path / "source.ckpt").unlink()
    load_policy(tmp_path / "started.ckpt")


def test_running_statistics_of_a_backbone_are_loaded_with_its_weights(tmp_path):
    source = tiny("ResNet")
    fit(source, tmp_path).save_checkpoint(tmp_path / "source.ckpt")
    settings = tiny_settings("Regression", weights=str(tmp_path / "source.ckpt"))
    settings["init_args"]["encoder"]["vision"] = BACKBONES["ResNet"]
    started = build_policy(settings)
    fit(started, tmp_path, steps=0)
    own, theirs = (dict(each.encoder.vision.named_buffers()) for each in (started, source))
    statistics = [name for name in own if name.endswith("running_var")]
    assert statistics
    assert all(torch.equal(own[name], theirs[name]) for name in statistics)


def test_weights_of_other_networks_are_refused(tmp_path):
    fit(tiny(), tmp_path, steps=1).save_checkpoint(tmp_path / "source.ckpt")
    other = tiny_settings("Regression", weights=str(tmp_path / "source.ckpt"))
    other["init_args"]["expert"]["mlp"] = 32
    message = r"expert\.layers\.0\.mlp.*expected \(32, 32\), got \(64, 32\)"
    with pytest.raises(ValueError, match=message):
        fit(build_policy(other), tmp_path)


@pytest.mark.parametrize("option", [{"lr_multipliers": {"tower": 0.0}}, {"lora": {"other": 2}}])
def test_unknown_parts_are_refused(option):
    with pytest.raises(ValueError, match="expected parts among"):
        FineTuning(**option)


def test_bf16_keeps_weights_in_full_precision(tmp_path):
    policy = tiny(gradient_checkpointing=True, lora={"language": 2})
    fit(policy, tmp_path, precision="bf16-mixed")
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_a_checkpoint_needs_no_file_of_its_language_model(tmp_path):
    from e0_lightning.networks.language import LanguageModel

    settings = tiny_settings("Regression")
    language = settings["init_args"]["encoder"]["language"]
    folder = tmp_path / "language"
    LanguageModel(**language).model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
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
