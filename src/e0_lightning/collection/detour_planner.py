"""Motion planner of ``Detour-v1``: passes the post on the left or on the right, by a coin."""

from __future__ import annotations

from typing import Any

import numpy as np

from e0_lightning.collection.panda_planner import panda_planner

CLEARANCE = 0.13
"""Distance at which the hand passes the middle of the post, meters."""


def goes_left(seed: int) -> bool:
    """Whether the planner passes the post of an episode on the left.

    A coin decides for each pair of seeds, 2n and 2n + 1, which of them goes left: no state tells
    the side, and of the seeds below any even number half go left.
    """
    heads = np.random.default_rng(seed // 2).random() < 0.5
    return bool(heads) == (seed % 2 == 0)


def solve(env: Any, seed: int, debug: bool = False, vis: bool = False) -> Any:
    """Move around the post to the goal, on the side of :func:`goes_left`.

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
    planner.gripper_state = planner.CLOSED
    hand, post, goal = task.agent.tcp.pose.sp, task.post.pose.sp.p, task.goal.pose.sp.p
    side = -CLEARANCE if goes_left(seed) else CLEARANCE
    beside = [post[0] + side, post[1], hand.p[2]]
    for position in (beside, [*goal[:2], hand.p[2]]):
        result = planner.move_to_pose_with_screw(sapien.Pose(position, hand.q))
        if result == -1:
            break
    planner.close()
    return result
