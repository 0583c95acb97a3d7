from functools import partial

import numpy as np
import pytest

from e0_lightning.benchmarks.libero_expert import SPEC, Attempt, summarize
from e0_lightning.collection.libero_expert import plan
from e0_lightning.collection.libero_recorder import attempt
from e0_lightning.collection.libero_scene import Boxes, Joint
from e0_lightning.envs import mujoco_gl
from e0_lightning.envs.libero import LiberoEnvironment
from e0_lightning.envs.libero_tasks import tasks

NO_BOXES = Boxes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3, 3)))

SHUT = Joint(0.0, np.array([0.0, 1.0, 0.0]), np.zeros(3), True, NO_BOXES)
AJAR, OPEN = SHUT._replace(value=-0.14), SHUT._replace(value=-0.16)
KNOB = Joint(0.0, np.array([0.0, 0.0, 1.0]), np.zeros(3), False, NO_BOXES)


class Facts:
    """A scene of a flat plate, a stove and a microwave."""

    def __init__(self, drawer=SHUT, done=()):
        self.joints = {"drawer": drawer, "stove": KNOB, "microwave": KNOB}
        self.done = done

    def holds(self, predicate):
        return predicate in self.done

    def joint(self, name):
        return self.joints.get(name)

    def is_covered(self, region):
        return region in ("drawer", "inside_of_microwave")

    def is_flat(self, item):
        return item == "plate"


def names(skills):
    assert all(isinstance(skill, partial) for skill in skills)
    return [" ".join(map(str, (skill.func.__name__, *skill.args))) for skill in skills]


@pytest.mark.parametrize(
    ("drawer", "first"),
    [(SHUT, ["open_drawer drawer"]), (AJAR, ["widen_drawer drawer"]), (OPEN, [])],
    ids=["shut", "ajar", "open"],
)
def test_a_drawer_is_opened_before_something_is_put_into_it_and_closed_last(drawer, first):
    goal = [["close", "drawer"], ["in", "bowl", "drawer"]]
    carried = ["pick bowl drawer", "place bowl drawer 0.0"]
    assert names(plan(Facts(drawer), goal)) == [*first, *carried, "close_drawer drawer"]


def test_a_knob_is_turned_first_and_objects_share_a_region():
    goal = [["on", "pot_1", "hob"], ["on", "pot_2", "hob"], ["turnon", "stove"]]
    pots = ["pick pot_1 hob", "place pot_1 hob -1.0", "pick pot_2 hob", "place pot_2 hob 1.0"]
    assert names(plan(Facts(), goal)) == ["turn stove", *pots]
    assert names(plan(Facts(done=[["turnon", "stove"]]), goal)) == pots


def test_a_flat_object_is_pushed():
    assert names(plan(Facts(), [["on", "plate", "table"]])) == ["push plate table"]


@pytest.mark.parametrize(
    "predicate", [["in", "mug", "inside_of_microwave"], ["close", "microwave"]], ids=" ".join
)
def test_what_no_skill_achieves_is_named(predicate):
    with pytest.raises(ValueError, match=f"got: {' '.join(predicate)}$"):
        plan(Facts(), [["turnon", "stove"], predicate])


@pytest.mark.parametrize(
    ("suite", "name"),
    [
        ("libero_goal", "open_the_top_drawer_and_put_the_bowl_inside"),
        ("libero_goal", "push_the_plate_to_the_front_of_the_stove"),
        ("libero_10", "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"),
        (
            "libero_10",
            "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
        ),
        (
            "libero_10",
            "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket",
        ),
    ],
    ids=["drawer", "push", "knob", "close", "two objects"],
)
def test_skills_achieve_the_goal_in_the_simulator(libero_assets, suite, name):
    task = f"{suite}/{name}"
    assert task in tasks(suite)
    environment = LiberoEnvironment(task, SPEC, mujoco_gl.offscreen(), libero_assets.path)
    actions, success = attempt(environment, 0)
    environment.close()
    assert success
    assert len(actions) < (300 if suite == "libero_goal" else 520)
    assert actions[-1][6] == -1 or name.endswith("close_it")  # released


def test_the_table_counts_successes_and_names_failed_seeds():
    attempts = [Attempt(True, 100), Attempt(False, 520), Attempt(True, 120)]
    assert summarize(attempts) == ("2 of 3", "110", "120", "1")
    assert summarize([Attempt(False, 0, "got: close microwave")])[3] == "got: close microwave"
