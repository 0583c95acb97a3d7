"""Motion planner of ``PrecisePick-v1``: picks the cube, then corrects where it holds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from e0_lightning.collection.panda_planner import panda_planner

MAX_CORRECTIONS = 10
"""Corrections after which an episode is given up."""

DOWN = np.array([0.0, 0.0, -1.0])


def solve(env: Any, seed: int, debug: bool = False, vis: bool = False) -> Any:
    """Pick the cube, hold it at the goal, and move by its deviation until it is close enough.

    The signature is that of ManiSkill's own solutions.

    Args:
        env: The environment, in ``pd_joint_pos``.
        seed: Seed of the episode.
        debug: Whether to wait for a key after each plan, where `vis`.
        vis: Whether to show the plans in ManiSkill's viewer.

    Returns:
        The result of the last step; -1 if there is no path.
    """
    import sapien

    env.reset(seed=seed)
    task = env.unwrapped
    planner = panda_planner(env, debug, vis)
    cube, goal = task.cube.pose.sp.p, task.goal_site.pose.sp.p
    # The fingers close across the sides that they are parallel to, without a turn of the hand.
    closing = np.round(task.agent.tcp.pose.sp.to_transformation_matrix()[:3, 1])
    grasp = task.agent.build_grasp_pose(DOWN, closing, cube)
    for pose in (grasp * sapien.Pose([0, 0, -0.05]), grasp):
        if planner.move_to_pose_with_screw(pose) == -1:
            planner.close()
            return -1
    planner.close_gripper()
    target = goal
    for _ in range(MAX_CORRECTIONS):
        result = planner.move_to_pose_with_screw(sapien.Pose(target, grasp.q))
        if result == -1:
            break
        result = planner.close_gripper()
        if result[-1]["success"].item():
            break
        target = target + goal - task.cube.pose.sp.p
    planner.close()
    return result
