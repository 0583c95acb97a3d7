"""Exported graphs act as the policies do, in a process without PyTorch."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from e0_lightning.cli import e0
from e0_lightning.export.export import export
from e0_lightning.export.runner import ExportedPolicy
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.random import GivenSamples
from tiny_policy import ACTIONS, make_batch, ready_policy, tiny_settings

pytestmark = pytest.mark.slow


def settings(sampler, **changes):
    return tiny_settings(
        token_per="step",
        **changes,
        sampler={"class_path": sampler, "init_args": {"num_steps": 3}},
        actions=ACTIONS | {"relative": {"actions": [0, 2], "state": {"qpos": [1, 3]}}},
    )


def require_packages():
    needed = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'e0-lightning[export]'")


def checkpoint(policy, path):
    for parameter in policy.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # an untrained expert ignores tau
    saved = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(saved)
    torch.save(saved, path)
    return path


def exported(sampler, folder, **changes):
    """A policy and the folder of its graph."""
    require_packages()
    path = checkpoint(ready_policy(settings(sampler, **changes)), folder / "last.ckpt")
    options = ["--format", "onnx", "--instruction-tokens", "24"]
    e0(["export", "--checkpoint", str(path), "--out", str(folder / "graph"), *options])
    return load_policy(path), folder / "graph"


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    return exported("TweedieSampler", tmp_path_factory.mktemp("onnx"))


def assert_equal_actions(policy, folder):
    """Assert that equal samples give PyTorch's actions."""
    runner, batch = ExportedPolicy(folder), make_batch(1)
    for seed in (1, 2):
        samples = runner.sample(seed)
        given = iter([torch.as_tensor(sample) for sample in samples.values()])
        with torch.inference_mode():
            expected = policy.sample_with(batch, GivenSamples(lambda *_, g=given: next(g))).actions
        images = {view: frames[0].numpy() for view, frames in batch["images"].items()}
        state = batch["state"][0].numpy()
        actions = runner.act(images, batch["instruction"][0], state, seed=seed)
        np.testing.assert_allclose(actions, expected[0].numpy(), rtol=0, atol=1e-5)
        assert next(given, None) is None


def test_equal_samples_give_pytorchs_actions(onnx):
    assert_equal_actions(*onnx)


def test_guidance_is_part_of_the_graph(tmp_path):
    assert_equal_actions(
        *exported("TweedieSampler", tmp_path, guidance={"dropout": 0.1, "scale": 2.0})
    )


def test_samplers_with_fresh_noise_get_all_of_it_as_inputs(tmp_path, capsys):
    policy, folder = exported("ArgmaxSampler", tmp_path)
    assert len(ExportedPolicy(folder).sample(0)) == policy.sampler.num_steps
    assert_equal_actions(policy, folder)
    assert "actions differ from PyTorch's by at most" in capsys.readouterr().out


def test_the_runner_beside_the_graph_needs_no_pytorch(onnx):
    policy, folder = onnx
    script = (
        "import sys, json\n"
        "for name in ('torch', 'transformers', 'e0_lightning'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from runner import ExportedPolicy\n"
        "policy = ExportedPolicy('.')\n"
        "images = {'base': np.zeros((3, 32, 32), np.uint8)}\n"
        "actions = policy.act(images, 'push the cube', np.zeros(5), seed=3)\n"
        "print(json.dumps(actions.tolist()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    actions = np.array(json.loads(ended.stdout.splitlines()[-1]))
    spec = policy.spec
    assert actions.shape == (spec.horizon, spec.action_dim)
    runner = ExportedPolicy(folder)
    images = {"base": np.zeros((3, 32, 32), np.uint8)}
    np.testing.assert_array_equal(
        actions.astype(np.float32), runner.act(images, "push the cube", np.zeros(5), seed=3)
    )


def test_bytes_are_tokenized_as_in_training_and_long_instructions_refused(onnx):
    policy, folder = onnx
    runner, sentence = ExportedPolicy(folder), "pousse-le à côté"
    tokens = runner.tokenize(sentence)
    ids = tokens["token_ids"][tokens["token_mask"] == 1].tolist()
    assert ids == policy.encoder.language.tokenizer(sentence)["input_ids"]
    with pytest.raises(ValueError, match="expected at most 24 tokens, got 41"):
        runner.tokenize("x" * 40)


def test_another_image_size_is_refused(onnx):
    runner = ExportedPolicy(onnx[1])
    with pytest.raises(ValueError, match=r"'image.base': \(1, 3, 16, 16\)"):
        runner.act({"base": np.zeros((3, 16, 16), np.uint8)}, "go", np.zeros(5))


def test_a_policy_with_a_prompt_is_refused(tmp_path):
    tree = tiny_settings()
    tree["init_args"]["encoder"]["prompt"] = {"template": "Task: {instruction}"}
    path = checkpoint(ready_policy(tree), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="got the prompt 'Task: "):
        export(str(path), str(tmp_path / "graph"))
    assert not (tmp_path / "graph").exists()
