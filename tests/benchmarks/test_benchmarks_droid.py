"""openpi's DROID loop with a scripted robot, policy and clock."""

import socket

import numpy as np
import pytest

from e0_lightning.benchmarks.droid import benchmark, table_row
from e0_lightning.benchmarks.droid_client import DroidClient, DroidEpisode
from e0_lightning.envs.droid_panda import PHYSICS_STEPS

pytest.importorskip("openpi_client.image_tools", reason="openpi-client is not installed")

VIEWS = ("exterior_image_1_left", "wrist_image_left")


class ScriptedRobot:
    """Logs what happens to it; its frames show how often they were read, plus 100 at the wrist."""

    joint_position, gripper_position = np.arange(7, dtype=np.float32), np.float32([0.5])

    def __init__(self, solved_after=10**9):
        self.log, self.reads, self.solved_after, self.elapsed = [], -1, solved_after, 0

    def reset(self, seed):
        self.log, self.reads = [("reset", seed)], -1

    def frames(self):
        self.reads += 1
        shades = dict(zip(VIEWS, (self.reads, 100 + self.reads), strict=True))
        return {view: np.full((360, 640, 3), shade, np.uint8) for view, shade in shades.items()}

    def command(self, action):
        self.log.append(("command", float(action[0])))

    def advance(self, physics_steps):
        self.elapsed += physics_steps
        self.log.append(("advance", physics_steps))
        return self.elapsed >= self.solved_after


class ScriptedPolicy:
    """Chunks whose first joint counts the actions; each response takes the next of some seconds."""

    def __init__(self, *seconds, chunk=None):
        self.seconds, self.now, self.observations = iter(seconds), 0.0, []
        self.chunk = np.zeros((10, 8), np.float32) if chunk is None else chunk

    def clock(self):
        return self.now

    def infer(self, observation):
        self.now += next(self.seconds, 0.0)
        chunk = self.chunk.copy()
        chunk[:, 0] += np.arange(len(chunk)) / 100 + len(self.observations) / 10
        self.observations.append(observation)
        return {"actions": chunk}


def run(policy, steps, robot=None, **settings):
    robot = robot or ScriptedRobot()
    client = DroidClient(robot, policy, "push", clock=policy.clock, **settings)
    return client.run(seed=3, max_steps=steps), robot.log


@pytest.mark.parametrize(
    ("seconds", "waited", "rest", "missed"),
    [(0, 0, 8, 0), (0.05, 6, 2, 0), (0.066, 8, 0, 0), (0.1, 12, 0, 1), (0.201, 24, 0, 3)],
)
def test_a_late_response_is_held_for_and_shortens_the_first_action(seconds, waited, rest, missed):
    episode, log = run(ScriptedPolicy(seconds), steps=2)
    assert log == [
        ("reset", 3),
        ("advance", waited),
        ("command", 0.0),
        ("advance", rest),
        ("command", pytest.approx(0.01)),
        ("advance", PHYSICS_STEPS),
    ]
    assert (episode.missed_deadlines, episode.response_seconds) == (missed, (seconds,))
    assert episode.seconds == pytest.approx((waited + rest + 8) / 120)


def test_eight_actions_of_a_chunk_are_executed_before_the_next_request():
    policy = ScriptedPolicy(0.1, 0.3, 0.02)
    episode, log = run(policy, steps=17)
    commands = [value for name, value in log if name == "command"]
    expected = [chunk / 10 + index / 100 for chunk in range(2) for index in range(8)]
    assert commands == pytest.approx([*expected, 0.2])
    assert (episode.steps, episode.missed_deadlines, len(policy.observations)) == (17, 1 + 4, 3)


def test_the_client_sends_what_openpis_example_sends():
    policy = ScriptedPolicy()
    run(policy, steps=1)
    (sent,) = policy.observations
    assert set(sent) == {
        *(f"observation/{view}" for view in VIEWS),
        "observation/joint_position",
        "observation/gripper_position",
        "prompt",
    }
    image = sent["observation/wrist_image_left"]
    assert (image.shape, image.dtype) == ((224, 224, 3), np.uint8)
    assert (image[49:175] == 100).all()
    assert not image[:49].any()
    assert not image[175:].any()
    assert sent["observation/joint_position"].tolist() == list(range(7))
    assert sent["observation/gripper_position"].tolist() == [0.5]
    assert sent["prompt"] == "push"


def shades(policy):
    """Shades of the images of each view, by request."""
    sent = [[each[f"observation/{view}"] for view in VIEWS] for each in policy.observations]
    return [[int(image[112, 112, 0]) for image in images] for images in sent]


def test_a_frame_that_does_not_arrive_is_replaced_by_the_last_one():
    policy = ScriptedPolicy()
    episode, _ = run(policy, steps=17, dropped_frames=1.0)
    assert shades(policy) == [[0, 100]] * 3
    assert episode.repeated_frames == 4


def test_all_frames_are_new_where_none_is_dropped():
    policy = ScriptedPolicy()
    episode, _ = run(policy, steps=17)
    assert shades(policy) == [[0, 100], [1, 101], [2, 102]]
    assert episode.repeated_frames == 0


def test_some_frames_are_dropped_at_random_and_equally_in_each_run():
    policies = ScriptedPolicy(), ScriptedPolicy()
    episodes = [run(policy, steps=200, dropped_frames=0.25)[0] for policy in policies]
    assert shades(policies[0]) == shades(policies[1])
    sent, new = np.array(shades(policies[0])), np.arange(25)[:, None] * 8 + [0, 100]
    stale = (new - sent) % 256
    assert episodes[0].repeated_frames == (stale > 0).sum()
    assert 4 < (stale > 0).sum() < 24  # 12 of 50 expected
    # The frame of the control period before is sent, if that one arrived.
    assert (stale == 1).sum() > (stale > 1).sum()


def test_gripper_is_binarized_and_velocities_are_clipped():
    chunk = np.zeros((10, 8), np.float32)
    chunk[:, 1:] = [3, -2, 0.4, 0, 0, 0, 0.6]
    robot, commands = ScriptedRobot(), []
    robot.command = lambda action: commands.append(action.tolist())
    run(ScriptedPolicy(chunk=chunk), steps=1, robot=robot)
    assert commands == [[0, 1, -1, pytest.approx(0.4), 0, 0, 0, 1]]


@pytest.mark.parametrize(("seconds", "steps"), [(0.2, 1), (0.0, 2)])
def test_a_task_may_be_solved_while_the_robot_waits_and_while_it_moves(seconds, steps):
    episode, _ = run(ScriptedPolicy(seconds), steps=50, robot=ScriptedRobot(solved_after=12))
    assert (episode.success, episode.steps) == (True, steps)


def test_a_chunk_that_is_not_droids_is_refused():
    with pytest.raises(ValueError, match=r"at least 8 actions .* got shape \(4, 7\)"):
        run(ScriptedPolicy(chunk=np.zeros((4, 7), np.float32)), steps=1)


def test_a_row_counts_successes_and_deadlines_over_all_episodes():
    episodes = [
        DroidEpisode(True, 30, 3.0, (0.05, 0.1), 1, 2),
        DroidEpisode(False, 30, 1.0, (0.15, 0.2), 5, 0),
    ]
    expected = "| 50 | 10% | 1 of 2 | 9% – 91% | 125 | 192 | 6 | 10% | 2 | 2.0 |"
    assert table_row(50, 0.1, episodes) == expected


@pytest.mark.simulator
def test_a_missing_server_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"expected a policy server at .* e0 serve"):
            benchmark(port=free.getsockname()[1])
