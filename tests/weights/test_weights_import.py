"""``e0 import-weights`` end to end: file, checkpoint, inference and training."""

import json
import re

import pytest
import torch
import yaml

from e0_lightning.cli import e0, run
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.weights.openpi import openpi_mapping

from .weights_tiny_models import (
    EXPERT_MLP,
    EXPERT_WIDTH,
    HEAD_DIM,
    HEADS,
    LAYERS,
    SIDE,
    TEXT,
    VISION_WIDTH,
    tiny_paligemma,
    tiny_pi05,
    write,
)


def settings(demos, **changes):
    """An experiment on test demonstrations, its networks of the architecture of the checkpoints."""
    depth = {"depth": 2, "embed_dim": VISION_WIDTH, "num_heads": 2, "mlp_ratio": 2}
    vision = {
        "name": "vit_so400m_patch14_siglip_224",
        "size": SIDE,
        "model_args": {"global_pool": "", "act_layer": "gelu_tanh", **depth},
    }
    normalizer = {"class_path": "QuantileNormalizer", "init_args": {"dim": 8}}
    return {
        "trainer": {"accelerator": "cpu"},
        "data": {
            "class_path": "RobotDemos",
            "init_args": {
                "demos": [str(demos)],
                "views": ["base_camera"],
                "state": ["qpos"],
                "horizon": 4,
                "batch_size": 2,
                "num_workers": 0,
            },
        },
        "model": {
            "class_path": "Regression",
            "init_args": {
                "encoder": {
                    "vision": vision,
                    "language": {"config": dict(TEXT)},
                    "state_dim": 9,
                },
                "expert": {
                    "width": EXPERT_WIDTH,
                    "depth": LAYERS,
                    "heads": HEADS,
                    "kv_heads": 1,
                    "head_dim": HEAD_DIM,
                    "mlp": EXPERT_MLP,
                },
                "actions": {"horizon": 4, "normalizer": normalizer},
            },
        },
    }


def experiment(demos, folder, **changes):
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(settings(demos, **changes)))
    return path


def observation(policy):
    (view,) = policy.spec.views
    frame = torch.randint(0, 256, (1, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    return {
        "images": {view: frame.to(torch.uint8)},
        "instruction": ["push the cube"],
        "state": torch.zeros(1, 9),
    }


def test_imported_weights_act_and_initialize_a_training(demos, tmp_path, capsys):
    config = experiment(demos, tmp_path)
    tensors = tiny_pi05()
    source = write(tensors, tmp_path / "model.safetensors")
    out = tmp_path / "imported.ckpt"
    e0(["import-weights", f"--source={source}", "--config", str(config), f"--out={out}"])
    assert "loaded: expert.norm.modulation.bias" in capsys.readouterr().out
    policy = load_policy(out)
    assert policy.spec.control_mode == "pd_joint_pos"
    actions = policy.act(observation(policy))
    assert actions.shape == (1, 4, 8)
    assert actions.isfinite().all()
    torch.testing.assert_close(load_policy(out).act(observation(policy)), actions)
    for name in ("encoder.projector.weight", "expert.layers.1.mlp.up_proj.weight"):
        mapping = openpi_mapping(tensors).tensors
        (source_name,) = [key for key, target in mapping.items() if target.name == name]
        assert torch.equal(policy.get_parameter(name), tensors[source_name])
    trained = run(
        [
            "fit",
            f"--config={config}",
            f"--model.weights={out}",
            "--trainer.max_steps=0",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    for name, parameter in trained.model.named_parameters():
        assert torch.equal(parameter, policy.get_parameter(name)), name
    trained.trainer.save_checkpoint(tmp_path / "started.ckpt")
    started = load_policy(tmp_path / "started.ckpt")
    torch.testing.assert_close(started.act(observation(policy)), actions, rtol=0, atol=0)


def test_imported_pi0_acts_with_all_of_its_weights(demos, tmp_path, capsys):
    config = experiment(demos, tmp_path)
    source = write(tiny_pi05(adaptive=False, actions=12, states=12), tmp_path / "pi0.safetensors")
    out = tmp_path / "pi0.ckpt"
    options = {
        "encoder.state_token": "suffix",
        "encoder.prompt": json.dumps({"template": "{instruction}\n"}),
        "expert.time_conditioning": "concat_mlp",
        "actions": "{model_dim: 12, predict_padding: true}",
        "state_normalizer": "{class_path: MeanStdNormalizer}",
    }
    words = [f"--model.init_args.{name}={value}" for name, value in options.items()]
    given = [f"--config={config}", "--model=FlowMatching", *words]
    e0(["import-weights", f"--source={source}", *given, f"--out={out}"])
    assert "left behind: none" in capsys.readouterr().out
    policy = load_policy(out)
    assert policy.act(observation(policy)).isfinite().all()
    moved = observation(policy) | {"noise_seed": [0], "state": torch.ones(1, 9)}
    still = observation(policy) | {"noise_seed": [0]}
    assert not torch.equal(policy.act(moved), policy.act(still))


def test_without_demonstrations_the_checkpoint_has_weights_but_no_spec(tmp_path, capsys):
    config = experiment(tmp_path / "nothing.h5", tmp_path)
    tiny_paligemma().save_pretrained(tmp_path / "paligemma")
    out = tmp_path / "imported.ckpt"
    source = tmp_path / "paligemma"
    e0(["import-weights", f"--source={source}", f"--config={config}", f"--out={out}"])
    assert "cannot act before" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected a fitted policy"):
        _ = load_policy(out).spec


def test_unsupported_file_is_an_error_without_traceback(demos, tmp_path):
    config = experiment(demos, tmp_path)
    torch.save({}, tmp_path / "model.bin")
    with pytest.raises(SystemExit, match="pickle"):
        e0(
            [
                "import-weights",
                f"--source={tmp_path / 'model.bin'}",
                f"--config={config}",
                "--out=unwritten.ckpt",
            ]
        )


def test_memory_benchmark_estimates_without_allocating(demos, tmp_path, capsys):
    config = experiment(demos, tmp_path)
    e0(["benchmark", "memory", f"--config={config}"])
    printed = capsys.readouterr().out
    assert "| expert |" in printed
    assert "estimated peak" in printed


def test_benchmarks_accept_the_options_of_fit(demos, tmp_path, capsys):
    config = experiment(demos, tmp_path)
    frozen = "{vision: 0, language: 0, expert: 0}"
    options = ["--model.fine_tuning.lr_multipliers", frozen, "--data.init_args.views=[left, right]"]
    e0(["benchmark", "latency", "--config", str(config), *options])
    assert "| vision, 2 views |" in capsys.readouterr().out
    e0(["benchmark", "memory", "--config", str(config), *options])
    assert re.search(r"\| expert \| 0\.\d+ \| 0\.00 \|", capsys.readouterr().out)


@pytest.mark.parametrize("verb", ["memory", "latency"])
def test_benchmarks_without_data_are_refused(demos, tmp_path, verb):
    config = experiment(demos, tmp_path)
    sizes = ["--model.encoder.state_dim=16", "--model.actions.normalizer.dim=8"]
    with pytest.raises(SystemExit, match="data: expected RobotDemos, whose views"):
        e0(["benchmark", verb, f"--config={config}", "--data=null", *sizes])
