"""Every overlay on every benchmark and policy is applied, or refused by name."""

import functools

import pytest
from test_experiments_files import EXPERIMENTS

from e0_lightning.cli.lightning_cli import CommandLine, run
from e0_lightning.cli.options import Option
from e0_lightning.cli.overlays import compose

BENCHMARKS = ["maniskill.yaml", "libero.yaml", "vlabench.yaml"]
POLICIES = {
    "E0": [],
    "E0Hybrid": ["policy/hybrid.yaml"],
    "FlowMatching": ["policy/flow_matching.yaml"],
    "MaskedDiffusion": ["policy/masked_diffusion.yaml"],
    "Autoregressive": ["policy/autoregressive.yaml"],
    "Regression": ["policy/regression.yaml"],
}
FILES = {name for files in POLICIES.values() for name in files}
OVERLAYS = sorted(
    str(path.relative_to(EXPERIMENTS))
    for path in EXPERIMENTS.glob("*/*.yaml")
    if path.parent.name not in ("task", "aloha", "compare", "libero", "pusht")
    and str(path.relative_to(EXPERIMENTS)) not in FILES
)
ALL_POLICIES = set(POLICIES)
DIFFUSION = {"E0", "E0Hybrid"}
APPLICABLE = {
    "ablation/action_dim.yaml": ALL_POLICIES,
    "ablation/alpha.yaml": DIFFUSION,
    "ablation/bins.yaml": DIFFUSION,
    "ablation/horizon.yaml": ALL_POLICIES,
    "ablation/linear_head.yaml": {"E0"},
    "ablation/mean_std.yaml": ALL_POLICIES,
    "ablation/one_hot_codes.yaml": DIFFUSION,
    "ablation/one_hot_targets.yaml": DIFFUSION,
    "ablation/token_per_dimension.yaml": {"E0"},
    "augment/color.yaml": ALL_POLICIES,
    "augment/none.yaml": ALL_POLICIES,
    "augment/viewpoint.yaml": ALL_POLICIES,
    "backbone/paligemma.yaml": ALL_POLICIES,
    "backbone/pi0.yaml": ALL_POLICIES,
    "backbone/pi05.yaml": ALL_POLICIES,
    "backbone/qwen.yaml": ALL_POLICIES,
    "backbone/small.yaml": ALL_POLICIES,
    "policy/argmax.yaml": DIFFUSION,
    "policy/categorical.yaml": DIFFUSION,
    "policy/guidance.yaml": {"E0"},
    "policy/real_time.yaml": {"E0"},
    "policy/released.yaml": DIFFUSION,
    "policy/tweedie.yaml": DIFFUSION,
    "setting/bf16.yaml": ALL_POLICIES,
    "setting/paper.yaml": {"E0"},
}
"""Overlay to the policies that have its settings; samplers set their class, so any policy with a
``sampler`` of that type takes them."""


def options(*files):
    return [Option("--config", str(EXPERIMENTS / name)) for name in files]


def test_the_table_names_every_overlay():
    assert [*APPLICABLE] == OVERLAYS


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_an_overlay_is_accepted_or_refused_by_name(benchmark, overlay, policy):
    files = options(benchmark, *POLICIES[policy], overlay)
    if policy in APPLICABLE[overlay]:
        compose(files)
    else:
        name = overlay.partition("/")[2]
        with pytest.raises(
            ValueError, match=rf"{name} sets model\..* (is an option of|expects a) "
        ):
            compose(files)


@functools.cache
def parsed(benchmark, policy, *overlays):
    """The configuration of a command line, without building it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandLine, "instantiate_classes", lambda self: None)
        args = [option.word for option in options(benchmark, *POLICIES[policy], *overlays)]
        return run(args, start=False).config


PAIRS = [(o, p) for o in OVERLAYS for p in POLICIES if p in APPLICABLE[o]]


@pytest.mark.slow
@pytest.mark.parametrize(("overlay", "policy"), PAIRS)
def test_an_accepted_overlay_parses(overlay, policy):
    benchmark = BENCHMARKS[PAIRS.index((overlay, policy)) % len(BENCHMARKS)]
    config = parsed(benchmark, policy, overlay)
    assert config.model.class_path == f"e0_lightning.{policy}"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_papers_setting_applies_to_every_benchmark(benchmark):
    config = parsed(benchmark, "E0", "setting/paper.yaml")
    assert config.data.init_args.horizon == 10
    process, sampler = (config.model.init_args[name].init_args for name in ("process", "sampler"))
    assert (process.num_bins, process.code_sigma, process.tau_distribution) == (2048, 0, None)
    assert sampler.schedule is None
    episodes = config.data.init_args.episodes
    assert episodes is None or episodes.init_args.n_action_steps == 10


def viewpoint_settings(benchmark, overlay):
    entries = parsed(benchmark, "E0", overlay).trainer.callbacks
    found = [each for each in entries if "ViewpointPerturbation" in each.class_path]
    return found[0].init_args if found else None


def test_views_of_vlabench_are_perturbed_by_default_and_not_with_an_overlay():
    settings = viewpoint_settings("vlabench.yaml", "policy/tweedie.yaml")
    assert (settings.views, settings.offset_keep_prob) == (None, 0.5)
    assert viewpoint_settings("vlabench.yaml", "augment/none.yaml").views == []


@pytest.mark.parametrize("benchmark", ["libero.yaml", "maniskill.yaml"])
def test_views_of_other_benchmarks_are_perturbed_by_an_overlay(benchmark):
    assert viewpoint_settings(benchmark, "policy/tweedie.yaml") is None
    assert viewpoint_settings(benchmark, "augment/viewpoint.yaml").max_yaw == 15


def test_a_backbone_keeps_the_callbacks_of_the_benchmark():
    files = "augment/viewpoint.yaml", "backbone/paligemma.yaml"
    entries = parsed("libero.yaml", "E0", *files).trainer.callbacks
    by_name = {entry.class_path.rpartition(".")[2]: entry.get("init_args") for entry in entries}
    assert by_name["RolloutReport"].folder == "runs/libero/evaluation"
    assert by_name["EMAWeightAveraging"].decay == 0.999
    assert "ViewpointPerturbation" in by_name
