import json
from pathlib import Path

import pytest
import yaml

from e0_lightning.cli.options import Option, parse_options
from e0_lightning.cli.overlays import (
    ConfigFile,
    accepted_options,
    add_callbacks,
    check_settings,
    compose,
    skip_absent_parts,
)
from e0_lightning.comparison.experiment_files import SHIPPED, find_experiment
from e0_lightning.diffusion.samplers import TweedieSampler
from e0_lightning.policies.e0 import E0


def composed_callbacks(*words):
    options = compose(parse_options(words))
    tree = yaml.safe_load(options[-1].value)
    return tree["trainer"]["callbacks"]


def names(callbacks):
    return [entry["class_path"] for entry in callbacks or []]


def config(callbacks, key="callbacks"):
    return f"--config={json.dumps({'trainer': {key: callbacks}})}"


EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}
REPORT = {"class_path": "RolloutReport"}


def test_options_are_split_in_both_spellings():
    words = ["fit", "-c", "a.yaml", "--trainer.max_steps", "3", "--data.seed=-1", "--print_config"]
    assert parse_options(words) == [
        Option("", "fit"),
        Option("--config", "a.yaml"),
        Option("--trainer.max_steps", "3"),
        Option("--data.seed", "-1"),
        Option("--print_config", None),
    ]


@pytest.mark.parametrize("key", ["callbacks", "callbacks+"])
def test_callbacks_of_a_later_file_are_added(key):
    callbacks = composed_callbacks(config([EMA]), config([REPORT], key))
    assert names(callbacks) == ["EMAWeightAveraging", "RolloutReport"]


def test_callbacks_of_a_later_file_replace_those_of_the_same_class():
    other = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}
    assert composed_callbacks(config([EMA, REPORT]), config([other])) == [REPORT, other]


def test_null_removes_the_callbacks_of_earlier_files():
    assert composed_callbacks(config([EMA]), config(None)) is None
    assert composed_callbacks(config([EMA]), config(None), config([REPORT])) == [REPORT]


def test_callbacks_as_an_option_replace_all():
    words = (config([EMA]), "--trainer.callbacks=null", config([REPORT]))
    assert composed_callbacks(*words) == [REPORT]
    assert add_callbacks([EMA], {"data": {}}) == [EMA]


@pytest.mark.parametrize("name", ["--model.encoder.vision.crop", "--model.init_args.encoder.crop"])
def test_null_is_possible_for_options_at_any_depth(name):
    (option,) = compose([Option(name, "null")])
    tree = yaml.safe_load(option.value)
    assert list(tree) == ["model"]
    assert list(tree["model"]) == ["init_args"]
    assert "null" in option.value


def test_null_options_reach_the_model(parse):
    words = ["--model.encoder.vision.crop", "null", "--model.actions.relative", "null"]
    model = parse("--config=maniskill.yaml", *words).model.init_args
    assert model.encoder.init_args.vision.init_args.crop is None
    assert model.actions.init_args.relative is None


def test_an_experiment_is_found_by_name_where_no_such_file_exists(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("maniskill.yaml", "experiments/maniskill.yaml"):
        assert parse(f"--config={name}").trainer.max_steps == 6000
    (tmp_path / "maniskill.yaml").write_text("trainer: {max_steps: 3}\nmodel: E0")
    with pytest.raises(ValueError, match="model"):
        parse("--config=maniskill.yaml")


OVERLAY = ConfigFile("alpha.yaml", {"model": {"init_args": {"process": {"alpha": 1.0}}}})
POLICY = ConfigFile("policy.yaml", {"model": {"class_path": "FlowMatching"}})
MASKED = ConfigFile("masked.yaml", {"model": {"class_path": "MaskedDiffusion"}})


@pytest.mark.parametrize("files", [[OVERLAY, POLICY], [POLICY, OVERLAY]])
def test_an_overlay_for_an_option_that_the_policy_lacks_is_refused_in_any_order(files):
    with pytest.raises(ValueError, match=r"alpha\.yaml .* FlowMatching has no .* of E0, E0Hybrid"):
        check_settings(files)


def test_an_overlay_for_an_option_that_a_part_lacks_names_the_part():
    with pytest.raises(ValueError, match=r"TokenMasking has no option alpha\. .* OneHotDiffusion"):
        check_settings([MASKED, OVERLAY])
    check_settings([MASKED, OVERLAY], model_option="E0")


def test_an_overlay_with_a_part_of_another_type_names_the_expected_type():
    sampler = {"sampler": {"class_path": "ArgmaxSampler"}}
    overlay = ConfigFile("argmax.yaml", {"model": {"init_args": sampler}})
    with pytest.raises(ValueError, match="MaskedDiffusion expects a ConfidenceSampler"):
        check_settings([MASKED, overlay])


def test_settings_of_parts_that_the_data_lacks_are_skipped():
    overlay = ConfigFile(
        "paper.yaml", {"data": {"init_args": {"episodes": {"init_args": {"x": 1}}}}}
    )
    (skipped,) = skip_absent_parts([overlay])
    assert skipped.tree == {"data": {"init_args": {}}}
    given = ConfigFile("b.yaml", {"data": {"init_args": {"episodes": {"class_path": "Any"}}}})
    assert skip_absent_parts([given, overlay]) == [given, overlay]


def test_constructor_arguments_of_bases_are_accepted_through_keywords():
    assert {"process", "token_per", "optimizer", "weights"} <= {*accepted_options(E0)}
    assert {"eta", "num_steps"} <= {*accepted_options(TweedieSampler)}


def test_the_package_ships_every_experiment():
    repository = Path(__file__).parents[2] / "experiments"
    assert {path.relative_to(SHIPPED) for path in SHIPPED.rglob("*.yaml")} == {
        path.relative_to(repository) for path in repository.rglob("*.yaml")
    }
    with pytest.raises(ValueError, match=r"Did you mean policy/argmax\.yaml"):
        find_experiment("policy/argmx.yaml")
