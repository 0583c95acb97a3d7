"""Stages of ManiSkill's tasks, against its own motion planner."""

import gymnasium
import pytest

from e0_lightning.envs.maniskill_stages import Stages

mani_skill = pytest.importorskip("mani_skill.envs", reason="ManiSkill is not installed")
planner = pytest.importorskip(
    "mani_skill.examples.motionplanning.panda.run", reason="mplib is not installed"
)

pytestmark = pytest.mark.simulator

SEEDS = {"PickCube-v1": 0, "StackCube-v1": 0, "PegInsertionSide-v1": 4, "PlugCharger-v1": 2}


class Watched(gymnasium.Wrapper):
    """Checks the stages after every step."""

    def __init__(self, env, task):
        super().__init__(env)
        self.stages, self.history = Stages(task, env.unwrapped), []

    def reset(self, **options):
        result = super().reset(**options)
        self.stages.reset()
        return result

    def step(self, action):
        result = super().step(action)
        self.history.append(self.stages.update())
        return result


def make(task):
    env = gymnasium.make(
        task, obs_mode="none", control_mode="pd_joint_pos", sim_backend="physx_cpu"
    )
    return Watched(env, task)


@pytest.mark.parametrize("task", SEEDS)
def test_the_planner_passes_every_stage_in_order(task):
    env = make(task)
    result = planner.MP_SOLUTIONS[task](env, seed=SEEDS[task], debug=False, vis=False)
    env.close()
    assert bool(result[-1]["success"].item())
    first = {name: [each[name] for each in env.history].index(True) for name in env.history[-1]}
    expected = ["reached", "grasped", "lifted", "aligned"][: 3 if task == "PickCube-v1" else 4]
    assert list(first) == expected
    assert list(first.values()) == sorted(first.values())


def test_a_robot_that_holds_still_reaches_no_stage():
    env = make("StackCube-v1")
    env.reset(seed=0)
    action = env.unwrapped.agent.robot.get_qpos()[0, :8].numpy()
    for _ in range(3):
        env.step(action)
    env.close()
    assert not any(env.history[-1].values())


def test_a_new_episode_starts_without_stages():
    env = make("PickCube-v1")
    planner.MP_SOLUTIONS["PickCube-v1"](env, seed=0, debug=False, vis=False)
    assert all(env.history[-1].values())
    env.reset(seed=1)
    env.step(env.action_space.sample() * 0)
    env.close()
    assert not any(env.history[-1].values())


def test_a_task_without_a_known_object_has_no_stages():
    assert Stages("PushCube-v1", None).update() == {}
