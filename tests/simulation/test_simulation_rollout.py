import pickle
from pathlib import Path

import pytest
import torch
from corridor import DIES, HANGS, RAISES, SPEC, Corridor, Walker

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts
from e0_lightning.types import EpisodeBatch


@pytest.fixture(scope="module")
def rollouts():
    """Rollouts with these settings; tests that ask for the same share the processes."""
    made = {}

    def make(num_envs=2, n_action_steps=4, timeout=60.0):
        key = (num_envs, n_action_steps, timeout)
        return made.setdefault(key, Rollouts(Corridor, *key))

    yield make
    for each in made.values():
        each.close()


def walks(*seeds, max_steps=20):
    return [EvalEpisode("corridor", seed, max_steps) for seed in seeds]


def test_results_come_in_the_order_of_the_episodes(rollouts):
    results = rollouts().play(Walker(), walks(9, 1, 30, 5))
    assert [result.seed for result in results] == [9, 1, 30, 5]
    assert [result.success for result in results] == [True, True, False, True]
    assert [result.steps for result in results] == [9, 1, 20, 5]


def test_results_do_not_depend_on_how_many_play_at_once(rollouts):
    episodes = walks(9, 1, 30, 5, 2, RAISES)
    one, two = rollouts(1).play(Walker(), episodes), rollouts(2).play(Walker(), episodes)
    assert one == two


def test_the_actor_sees_all_waiting_environments_at_once(rollouts):
    walker = Walker()
    rollouts(num_envs=2).play(walker, walks(10, 10))
    assert [len(shown["instruction"]) for shown in walker.shown] == [2, 2, 2]


def test_a_free_place_is_filled_while_the_others_play_on(rollouts):
    walker = Walker()
    rollouts(num_envs=2, n_action_steps=4).play(walker, walks(12, 4, 4, 4))
    goals = [shown["state"][:, 1].tolist() for shown in walker.shown]
    assert goals == [[12, 4], [12], [12, 4], [4]]


def test_an_observation_is_what_a_policy_is_promised(rollouts):
    walker = Walker()
    rollouts(num_envs=2).play(walker, walks(3, 4))
    shown = walker.shown[0]
    assert shown["images"]["front"].shape == (2, 3, 4, 4)
    assert shown["images"]["front"].dtype == torch.uint8
    assert shown["images"]["front"][0, :, 0, 1].tolist() == [0, 7, 9]
    assert shown["state"].tolist() == [[0, 3], [0, 4]]
    assert shown["state"].dtype == torch.float32
    assert shown["instruction"] == ["walk on", "walk on"]
    assert shown["intrinsics"]["front"].shape == (2, 3, 3)


def test_the_actor_is_asked_again_after_replan_steps(rollouts):
    walker = Walker()
    rollouts(num_envs=1).play(walker, walks(9))
    assert [shown["state"][0, 0].item() for shown in walker.shown] == [0, 4, 8]


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (RAISES, "RuntimeError: the floor gave way"),
        (DIES, "its process died (exit status -9)"),
        (HANGS, "no answer within 8 s"),
    ],
    ids=["raises", "dies", "hangs"],
)
def test_an_environment_that_goes_wrong_costs_one_episode(rollouts, seed, reason):
    results = rollouts(timeout=8.0).play(Walker(), walks(5, seed, 6, 7))
    assert [result.error for result in results] == ["", reason, "", ""]
    assert [result.success for result in results] == [True, False, True, True]


def test_a_place_plays_on_after_a_death(rollouts):
    results = rollouts(num_envs=1).play(Walker(), walks(DIES, 5, DIES, 6))
    assert [result.success for result in results] == [False, True, False, True]


def test_processes_serve_the_next_batch(rollouts):
    world = rollouts(num_envs=1)
    world.play(Walker(), walks(2))
    first = world._seats[0].worker.process.pid
    world.play(Walker(), walks(3))
    assert world._seats[0].worker.process.pid == first


def test_an_environment_that_refuses_the_actor_stops_the_run(rollouts):
    with pytest.raises(ValueError, match="the corridor is locked"):
        rollouts().play(Walker(), [EvalEpisode("locked", 1, 10)])


def test_a_camera_that_cannot_move_so_stops_the_run(rollouts):
    with pytest.raises(ValueError, match="corridor: the ceiling is low"):
        rollouts().play(Walker(), [EvalEpisode("corridor", 3, 10, camera=(0.0, 80.0, 0.0))])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.zeros(1, 6, 3), r"shape \(1, 6, 3\); \(1, horizon, 2\) is wanted"),
        (torch.zeros(6, 2), r"shape \(6, 2\)"),
        (torch.zeros(1, 2, 2), "returned 2 steps and n_action_steps is 4"),
        (torch.full((1, 6, 2), float("nan")), "not finite"),
    ],
    ids=["dimensions", "no batch", "too short", "NaN"],
)
def test_actions_that_do_not_fit_are_refused(rollouts, actions, message):
    walker = Walker()
    walker.act = lambda observation: actions
    with pytest.raises(ValueError, match=message):
        rollouts(num_envs=1).play(walker, walks(3))


@pytest.mark.parametrize("wrong", [{"num_envs": 0}, {"n_action_steps": -1}, {"timeout": 0.0}])
def test_numbers_must_be_positive(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rollouts(Corridor, **{"num_envs": 1, "n_action_steps": 1, **wrong})


def test_a_video_is_named_after_the_outcome(rollouts, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio with ffmpeg")
    episodes = [
        EvalEpisode("corridor", seed, 8, str(tmp_path / "videos" / f"{seed}.mp4"))
        for seed in (5, 30, RAISES)
    ]
    results = rollouts().play(Walker(), episodes)
    names = [Path(result.video).name for result in results]
    assert names == ["5_success.mp4", "30_failure.mp4", f"{RAISES}_error.mp4"]
    assert all(Path(result.video).stat().st_size > 0 for result in results)


def test_a_batch_travels_by_pickle_and_plays_where_it_arrives(rollouts):
    world = rollouts(num_envs=1)
    world.play(Walker(), walks(2))
    batch = pickle.loads(pickle.dumps(RolloutBatch(world, walks(3), {"n_action_steps": 4})))
    assert isinstance(batch, EpisodeBatch)
    assert batch.about == {"n_action_steps": 4}
    assert [result.success for result in batch.run(Walker(spec=SPEC))] == [True]
    batch.rollouts.close()
