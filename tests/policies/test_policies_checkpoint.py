"""Checkpoints that are loaded, refused or never written."""

import argparse
import re
import sys

import pytest
import torch

from e0_lightning.policies.checkpoint import build_policy, load_policy, untrusted_classes
from tiny_policy import (
    LANGUAGE,
    InMemoryDemos,
    act_seeded,
    make_batch,
    new_policy,
    quiet_trainer,
    ready_policy,
    tiny_settings,
)


def save(policy, path):
    checkpoint = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return save(ready_policy(tiny_settings("Regression")), tmp_path / "policy.ckpt")


def change(path, **changes):
    torch.save(torch.load(path, weights_only=True) | changes, path)


def load_error(path):
    """The one line that a checkpoint is refused with."""
    with pytest.raises(ValueError, match=str(path)) as caught:
        load_policy(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bare_class_names_are_stored_as_import_paths():
    tree = dict(new_policy(tiny_settings(sampler={"class_path": "ArgmaxSampler"})).hparams)
    assert tree.pop("_class_path") == "e0_lightning.E0"
    assert tree["sampler"]["class_path"] == "e0_lightning.ArgmaxSampler"
    tree.pop("_instantiator")
    assert not list(untrusted_classes(tree))


DAMAGED = {
    "no file": (None, "got no file"),
    "empty": (b"", "got an empty file.*numbered one"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid 0\n", "git lfs pull"),
    "text": (b"hello", "got another format"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_checkpoint_is_refused(kind, tmp_path):
    content, message = DAMAGED[kind]
    path = tmp_path / "file.ckpt"
    if content is not None:
        path.write_bytes(content)
    assert re.search(message, load_error(path))


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint, fraction):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * fraction)])
    assert "cut off" in load_error(checkpoint)


def test_a_flipped_byte_is_found_or_without_effect(checkpoint):
    content, expected = checkpoint.read_bytes(), load_policy(checkpoint).act(make_batch())
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for position in torch.randint(len(content), (24,), generator=generator).tolist():
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        checkpoint.write_bytes(flipped)
        try:
            loaded = load_policy(checkpoint)
        except ValueError:
            refused += 1
        else:
            assert torch.equal(loaded.act(make_batch()), expected)
    assert refused > 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "hyper_parameters": argparse.Namespace(x=1)}, "pickled Python objects"),
        (torch.zeros(3), "with a state_dict, got .*Tensor"),
        ({"weights": torch.zeros(3)}, r"with a state_dict, got \['weights'\]"),
        ({"state_dict": {"a": torch.zeros(3)}}, "expected the constructor tree of a policy"),
    ],
    ids=["pickled", "tensor", "other keys", "no tree"],
)
def test_a_foreign_checkpoint_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "foreign.ckpt")
    assert re.search(message, load_error(tmp_path / "foreign.ckpt"))


def test_a_spec_of_another_version_is_refused(checkpoint):
    change(checkpoint, spec=ready_policy(tiny_settings()).spec.as_dict() | {"fps": 20})
    assert "another version of e0-lightning" in load_error(checkpoint)


def test_weights_of_other_sizes_are_refused(checkpoint):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    change(checkpoint, state_dict=state | {"projection.head.bias": torch.zeros(9)})
    assert "projection.head.bias" in load_error(checkpoint)


def test_nan_weights_are_refused_at_load_and_never_saved(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["projection.head.bias"][0] = torch.nan
    change(checkpoint, state_dict=state)
    assert "NaN or infinity in 1 tensors (projection.head.bias)" in load_error(checkpoint)
    policy = ready_policy(tiny_settings("Regression"))
    policy.projection.head.bias.data[0] = torch.inf
    with pytest.raises(ValueError, match="to be written: expected finite weights"):
        save(policy, tmp_path / "broken.ckpt")


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that leaves a file where it is imported."""
    (tmp_path / "payload.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'executed')!r}).touch()\n"
        "from e0_lightning import Regression, TweedieSampler\n"
        "class Own(Regression): pass\n"
        "class OwnSampler(TweedieSampler): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "executed"
    sys.modules.pop("payload", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_path": "payload.Own"},
        {"optimizer": {"class_path": "payload.OwnSampler", "init_args": {}}},
        {"optimizer": "payload.OwnSampler"},
        {
            "encoder": {
                "init_args": {"vision": {"model_args": {"x": [{"class_path": "payload.A"}]}}}
            }
        },
    ],
    ids=["policy", "nested", "string", "deep"],
)
def test_modules_without_trust_are_never_imported(checkpoint, payload, changes):
    tree = torch.load(checkpoint, weights_only=True)["hyper_parameters"] | changes
    change(checkpoint, hyper_parameters=tree)
    assert "trust=['payload']" in load_error(checkpoint)
    assert not payload.exists()


def test_a_trusted_module_is_imported(payload, tmp_path):
    sampler = {"class_path": "payload.OwnSampler", "init_args": {"num_steps": 2}}
    path = save(ready_policy(tiny_settings(sampler=sampler)), tmp_path / "own.ckpt")
    assert "payload.OwnSampler, which is not imported" in load_error(path)
    loaded = load_policy(path, trust=["payload"])
    assert type(loaded.sampler).__name__ == "OwnSampler"
    assert loaded.sampler.num_steps == 2


@pytest.mark.parametrize("settings", [tiny_settings(), tiny_settings("FlowMatching")], ids=str)
def test_bf16_acts_as_the_trainer_does(settings, tmp_path):
    policy, batch = ready_policy(settings), make_batch()
    trainer = quiet_trainer(tmp_path, precision="bf16-mixed")
    (predicted, *_) = trainer.predict(policy, InMemoryDemos())
    path = save(policy, tmp_path / "policy.ckpt")
    half, full = load_policy(path, precision="bf16-mixed"), load_policy(path)
    (as_trained, *_) = quiet_trainer(tmp_path).predict(half, InMemoryDemos())
    assert torch.equal(as_trained, predicted)
    acted, in_full = act_seeded(half, batch), act_seeded(full, batch)
    assert not torch.equal(acted, in_full)
    torch.testing.assert_close(acted, in_full, rtol=0.0, atol=0.1)
    uncertainty = half.sample_actions({**batch, "noise_seed": [1, 2, 3, 4]}).uncertainty
    assert uncertainty is None or uncertainty.isfinite().all()


def test_an_unknown_precision_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"precision: expected one of .* got 'fp8'"):
        load_policy(checkpoint, precision="fp8")


def test_a_tokenizer_with_its_own_code_is_refused_without_a_question(tmp_path, monkeypatch):
    questions = []
    monkeypatch.setattr("builtins.input", lambda *question: questions.append(question) or "y")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": [null, "evil.Tokenizer"]}, "tokenizer_class": "Evil"}'
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')\n")
    settings = tiny_settings("Regression")
    settings["init_args"]["encoder"]["language"] = {
        "config": dict(LANGUAGE),
        "tokenizer": str(tmp_path),
    }
    with pytest.raises(
        ValueError, match=r"language\.tokenizer: expected a tokenizer of transformers"
    ):
        build_policy(settings)
    assert not questions
