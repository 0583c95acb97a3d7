"""ManiSkill's motion planner for a Panda, as this library's own tasks use it."""

from __future__ import annotations

from typing import Any


def panda_planner(env: Any, debug: bool = False, vis: bool = False) -> Any:
    """The planner of an environment that has just been reset.

    Args:
        env: The environment, in ``pd_joint_pos``.
        debug: Whether to wait for a key after each plan, where `vis`.
        vis: Whether to show the plans in ManiSkill's viewer.
    """
    from mani_skill.examples.motionplanning.panda.motionplanner import PandaArmMotionPlanningSolver

    return PandaArmMotionPlanningSolver(
        env,
        debug=debug,
        vis=vis,
        base_pose=env.unwrapped.agent.robot.pose,
        visualize_target_grasp_pose=vis,
        print_env_info=False,
    )
