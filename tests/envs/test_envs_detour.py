import numpy as np
import pytest
import torch

from e0_lightning.collection.detour_planner import CLEARANCE, goes_left, solve
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.maniskill import ManiSkillEnvironment
from e0_lightning.evaluation.rollout import Rollouts
from e0_lightning.types import PolicySpec

pytestmark = pytest.mark.simulator

SPEC = PolicySpec(
    state={"tcp_pose": 7, "goal_pos": 3, "obstacle_pos": 3},
    action_dim=4,
    control_mode="pd_ee_delta_pos",
    horizon=1,
)
STEP = 0.02
"""Displacement of the hand in a control step, meters; an action of 1 is 10 cm."""


class Walker:
    """Moves to the goal by way of a point beside the post, or straight if ``side`` is 0."""

    spec = SPEC

    def __init__(self, side):
        self.side = side

    def act(self, observation):
        return torch.stack([self._action(state) for state in observation["state"]])

    def _action(self, state):
        hand, goal, post = state[:3], state[7:10], state[10:]
        target = goal
        if hand[1] < post[1]:
            # Outwards first; straight is to the goal from the start.
            beside = post + torch.tensor([self.side * CLEARANCE, 0.02, 0.0])
            target = beside if self.side else goal
        step = torch.zeros(4)
        step[:2] = (target - hand)[:2] * STEP / (target - hand)[:2].norm().clamp(min=STEP) / 0.1
        step[3] = -1
        return step[None]


@pytest.fixture(scope="module")
def rollouts():
    rollouts = Rollouts(ManiSkillEnvironment, num_envs=1, n_action_steps=1)
    yield rollouts
    rollouts.close()


@pytest.mark.parametrize(
    ("side", "success", "flags"),
    [
        (-1, True, {"touched": False, "left": True}),
        (1, True, {"touched": False, "left": False}),
        (0, False, {"touched": True}),
    ],
    ids=["left", "right", "straight"],
)
def test_a_hand_reaches_the_goal_past_either_side_of_the_post_but_not_straight(
    rollouts, side, success, flags
):
    for result in rollouts.run(Walker(side), [EvalEpisode("Detour-v1", n, 60) for n in range(3)]):
        assert (result.success, result.error) == (success, "")
        assert flags.items() <= result.flags.items()


def test_a_touch_is_forgotten_in_the_next_episode(rollouts):
    episodes = [EvalEpisode("Detour-v1", 0, 60), EvalEpisode("Detour-v1", 0, 1)]
    touched, fresh = rollouts.run(Walker(0), episodes)
    assert touched.flags["touched"]
    assert not fresh.flags["touched"]


@pytest.fixture(scope="module")
def environment():
    import gymnasium

    import e0_lightning.envs.detour  # noqa: F401  (registers the task)

    environment = gymnasium.make(
        "Detour-v1", obs_mode="none", control_mode="pd_joint_pos", sim_backend="physx_cpu"
    )
    yield environment
    environment.close()


def test_the_planner_takes_both_ways_and_never_touches_the_post(environment):
    ends = [solve(environment, seed)[-1] for seed in range(12)]
    assert all(end["success"] for end in ends)
    assert not any(end["touched"] for end in ends)
    assert [end["left"].item() for end in ends] == [goes_left(seed) for seed in range(12)]


def test_half_of_the_demonstrations_go_left_in_random_order():
    sides = np.array([goes_left(seed) for seed in range(200)])
    assert sides.sum() == 100
    # Neither a seed's parity nor the side before tells the side of an even seed.
    assert 35 < sides[::2].sum() < 65
    assert 35 < (sides[2::2] == sides[:-2:2]).sum() < 65
