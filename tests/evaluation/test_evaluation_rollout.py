import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation_corridor import DIES, HANGS, RAISES, SPEC, Corridor, RandomWalker, Walker

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.results_store import key
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts
from e0_lightning.types import EpisodeBatch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rollouts():
    """Rollouts with these settings; tests with the same settings share the processes."""
    made = {}

    def make(num_envs=2, n_action_steps=4, timeout=60.0):
        settings = (num_envs, n_action_steps, timeout)
        return made.setdefault(settings, Rollouts(Corridor, *settings))

    yield make
    for each in made.values():
        each.close()


def walks(*seeds, max_steps=20):
    return [EvalEpisode("corridor", seed, max_steps) for seed in seeds]


def test_results_are_in_the_order_of_the_episodes(rollouts):
    results = rollouts().run(Walker(), walks(9, 1, 30, 5))
    assert [result.seed for result in results] == [9, 1, 30, 5]
    assert [result.success for result in results] == [True, True, False, True]
    assert [result.steps for result in results] == [9, 1, 20, 5]


def test_each_result_is_reported_when_its_episode_ends(rollouts):
    reported = []
    results = rollouts().run(Walker(), walks(9, 1, 30, 5), reported.append)
    assert [result.seed for result in reported] == [1, 9, 5, 30]
    assert sorted(reported, key=results.index) == results


def test_results_do_not_depend_on_the_number_of_environments(rollouts):
    episodes = walks(9, 1, 30, 5, 2, RAISES)
    one, two = rollouts(1).run(Walker(), episodes), rollouts(2).run(Walker(), episodes)
    assert one == two


def test_actions_of_a_stochastic_actor_depend_on_the_episode_alone(rollouts):
    def actions(num_envs, seeds):
        walker = RandomWalker()
        rollouts(num_envs).run(walker, walks(*seeds, max_steps=12))
        return [chunk.tolist() for chunk in walker.actions[9]]

    alone = actions(1, [9])
    assert len(alone) == 3
    assert alone[0] != alone[1]  # new noise at every step
    assert actions(8, [1, 2, 3, 4, 9, 5, 6, 7]) == alone
    assert actions(2, [7, 30, 9]) == alone


def test_a_resumed_evaluation_samples_the_same_actions(rollouts):
    episodes = walks(5, 9, 30, max_steps=12)
    whole = RandomWalker()
    results = rollouts().run(whole, episodes)
    resumed = RandomWalker()
    batch = RolloutBatch(rollouts(), episodes, {})
    batch.finished = {key(results[0]): results[0]}
    assert batch.run(resumed) == results
    assert set(resumed.actions) == {9, 30}
    for goal, chunks in resumed.actions.items():
        assert torch.equal(torch.stack(chunks), torch.stack(whole.actions[goal]))


def test_noise_depends_on_the_seed_of_the_run(rollouts, monkeypatch):
    def first_chunk():
        walker = RandomWalker()
        rollouts().run(walker, walks(9))
        return walker.actions[9][0]

    plain = first_chunk()
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(first_chunk(), plain)


def test_the_actor_acts_on_all_waiting_environments_at_once(rollouts):
    walker = Walker()
    rollouts(num_envs=2).run(walker, walks(10, 10))
    assert [len(batch["instruction"]) for batch in walker.observations] == [2, 2, 2]


def test_a_free_environment_starts_the_next_episode_while_others_run(rollouts):
    walker = Walker()
    rollouts(num_envs=2, n_action_steps=4).run(walker, walks(12, 4, 4, 4))
    goals = [batch["state"][:, 1].tolist() for batch in walker.observations]
    assert goals == [[12, 4], [12], [12, 4], [4]]


def test_observations_have_the_types_and_shapes_of_a_policy_input(rollouts):
    walker = Walker()
    rollouts(num_envs=2).run(walker, walks(3, 4))
    batch = walker.observations[0]
    assert batch["images"]["front"].shape == (2, 3, 4, 4)
    assert batch["images"]["front"].dtype == torch.uint8
    assert batch["images"]["front"][0, :, 0, 1].tolist() == [0, 7, 9]
    assert batch["state"].tolist() == [[0, 3], [0, 4]]
    assert batch["state"].dtype == torch.float32
    assert batch["instruction"] == ["walk on", "walk on"]
    assert batch["intrinsics"]["front"].shape == (2, 3, 3)
    assert len(set(batch["noise_seed"])) == 2


def test_the_actor_acts_again_after_n_action_steps(rollouts):
    walker = Walker()
    rollouts(num_envs=1).run(walker, walks(9))
    assert [batch["state"][0, 0].item() for batch in walker.observations] == [0, 4, 8]


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (RAISES, "RuntimeError: the floor gave way"),
        (DIES, "its process died (exit status -9)"),
        (HANGS, "no response within 8 s"),
    ],
    ids=["raises", "dies", "hangs"],
)
def test_a_failing_environment_fails_only_its_own_episode(rollouts, seed, reason):
    results = rollouts(timeout=8.0).run(Walker(), walks(5, seed, 6, 7))
    assert [result.error for result in results] == ["", reason, "", ""]
    assert [result.success for result in results] == [True, False, True, True]


def test_a_worker_that_dies_is_restarted(rollouts):
    results = rollouts(num_envs=1).run(Walker(), walks(DIES, 5, DIES, 6))
    assert [result.success for result in results] == [False, True, False, True]


def test_processes_are_reused_by_the_next_batch(rollouts):
    one = rollouts(num_envs=1)
    one.run(Walker(), walks(2))
    first = one._workers[0].process.process.pid
    one.run(Walker(), walks(3))
    assert one._workers[0].process.process.pid == first


def test_an_environment_that_does_not_support_the_actor_stops_the_run(rollouts):
    with pytest.raises(ValueError, match="the corridor is locked"):
        rollouts().run(Walker(), [EvalEpisode("locked", 1, 10)])


def test_an_impossible_camera_displacement_stops_the_run(rollouts):
    with pytest.raises(ValueError, match="corridor: the ceiling is low"):
        rollouts().run(Walker(), [EvalEpisode("corridor", 3, 10, camera=(0.0, 80.0, 0.0))])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.zeros(1, 6, 3), r"shape \(1, horizon, 2\), got \(1, 6, 3\)"),
        (torch.zeros(6, 2), r"got \(6, 2\)"),
        (torch.zeros(1, 2, 2), "n_action_steps: expected at most the 2 steps .* got 4"),
        (torch.full((1, 6, 2), float("nan")), "expected finite actions"),
    ],
    ids=["dimensions", "no batch", "too short", "NaN"],
)
def test_invalid_actions_are_refused(rollouts, actions, message):
    walker = Walker()
    walker.act = lambda observation: actions
    with pytest.raises(ValueError, match=message):
        rollouts(num_envs=1).run(walker, walks(3))


@pytest.mark.parametrize("wrong", [{"num_envs": 0}, {"n_action_steps": -1}, {"timeout": 0.0}])
def test_numbers_must_be_positive(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rollouts(Corridor, **{"num_envs": 1, "n_action_steps": 1, **wrong})


def test_the_file_name_of_a_video_ends_with_the_outcome(rollouts, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio with ffmpeg")
    episodes = [
        EvalEpisode("corridor", seed, 8, str(tmp_path / "videos" / f"{seed}.mp4"))
        for seed in (5, 30, RAISES)
    ]
    results = rollouts().run(Walker(), episodes)
    names = [Path(result.video).name for result in results]
    assert names == ["5_success.mp4", "30_failure.mp4", f"{RAISES}_error.mp4"]
    assert all(Path(result.video).stat().st_size > 0 for result in results)
    assert len(list((tmp_path / "videos").iterdir())) == 3


def test_a_pickled_batch_runs_in_its_own_processes(rollouts):
    one = rollouts(num_envs=1)
    one.run(Walker(), walks(2))
    batch = pickle.loads(pickle.dumps(RolloutBatch(one, walks(3), {"n_action_steps": 4})))
    assert isinstance(batch, EpisodeBatch)
    assert batch.metadata == {"n_action_steps": 4}
    assert [result.success for result in batch.run(Walker(spec=SPEC))] == [True]
    batch.rollouts.close()


def test_worker_processes_do_not_import_lightning():
    package = Path(sys.modules["e0_lightning"].__file__).parent
    # A bare package, so that only the imports of the worker itself count.
    script = f"""
import sys, types
package = types.ModuleType("e0_lightning")
package.__path__ = [{str(package)!r}]
sys.modules["e0_lightning"] = package
import e0_lightning.evaluation.env_worker
import e0_lightning.envs.libero, e0_lightning.envs.maniskill
print(*({{name.split(".")[0] for name in sys.modules}} & {{"lightning", "transformers", "timm"}}))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == []
