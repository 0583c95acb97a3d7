"""Environments that step as one batch give the results of one process for each."""

import pickle
from dataclasses import replace

import pytest
from evaluation_corridor import SPEC, Corridor, RandomWalker, Walker

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.batched_rollouts import BatchedRollouts
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes
from e0_lightning.evaluation.rollout import Rollouts


class Corridors:
    """Corridors side by side; each call executes the actions in all of them."""

    def __init__(self, task, spec, num_envs):
        self.corridors = [Corridor(task, spec) for _ in range(num_envs)]
        self.is_closed = False

    def reset(self, seeds):
        pairs = zip(self.corridors, seeds, strict=True)
        return [corridor.reset(seed, (0.0, 0.0, 0.0)) for corridor, seed in pairs]

    def run(self, actions, last, on_frames):
        rows = zip(self.corridors, actions, on_frames, strict=True)
        return [corridor.run(each, last, on_frame) for corridor, each, on_frame in rows]

    def close(self):
        self.is_closed = True


def walks(*seeds, max_steps=20, **options):
    return [EvalEpisode("corridor", seed, max_steps, **options) for seed in seeds]


EPISODES = [*walks(9, 1, 30, 5, 2), *walks(8, 40, max_steps=7)]


@pytest.mark.slow
@pytest.mark.parametrize("n_obs_steps", [1, 3])
def test_results_and_actions_are_those_of_processes(n_obs_steps):
    spec = replace(SPEC, n_obs_steps=n_obs_steps)

    def run(rollouts):
        walker, reported = RandomWalker(), []
        walker.spec = spec
        results = rollouts.run(walker, EPISODES, reported.append)
        rollouts.close()
        assert sorted(reported, key=results.index) == results
        return results, {goal: [c.tolist() for c in each] for goal, each in walker.actions.items()}

    expected = run(Rollouts(Corridor, 2, 4))
    for num_envs in (1, 3, 8):
        assert run(BatchedRollouts(Corridors, num_envs, 4)) == expected


def test_the_actor_acts_on_the_running_episodes_of_a_group():
    walker = Walker()
    BatchedRollouts(Corridors, 3, 4).run(walker, walks(10, 4, 6, 3))
    goals = [batch["state"][:, 1].tolist() for batch in walker.observations]
    assert goals == [[10, 4, 6], [10, 6], [10], [3]]


def test_an_episode_is_recorded_to_its_end(tmp_path):
    import imageio.v2 as imageio

    episodes = walks(5, video=str(tmp_path / "five.mp4")) + walks(9)
    first, second = BatchedRollouts(Corridors, 2, 4).run(Walker(), episodes)
    assert first.video == str(tmp_path / "five_success.mp4")
    assert len(imageio.mimread(first.video)) == 5
    assert second.video is None


def test_environments_are_kept_for_the_task_and_closed():
    made = []

    def make(task, spec, num_envs):
        made.append(Corridors(task, spec, num_envs))
        return made[-1]

    rollouts = BatchedRollouts(make, 2, 4)
    for _ in range(2):
        rollouts.run(Walker(), walks(3, 4))
    assert len(made) == 1
    rollouts.run(Walker(), [EvalEpisode("another corridor", 3, 20)])
    assert [each.is_closed for each in made] == [True, False]
    rollouts.close()
    assert made[1].is_closed


def test_a_copy_builds_its_own_environments():
    rollouts = BatchedRollouts(Corridors, 2, 4)
    expected = rollouts.run(Walker(), walks(3))
    assert pickle.loads(pickle.dumps(rollouts)).run(Walker(), walks(3)) == expected


def test_displaced_cameras_are_refused():
    with pytest.raises(ValueError, match=r"camera_offset: .*got \(10.0, 0.0, 0.0\)"):
        BatchedRollouts(Corridors, 2, 4).run(Walker(), walks(3, camera=(10.0, 0.0, 0.0)))


def test_a_simulation_on_a_gpu_is_refused_without_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    episodes = ManiSkillEpisodes(["PushCube-v1"], backend="gpu")
    with pytest.raises(ValueError, match=r"backend: expected a CUDA card .*got no CUDA device"):
        episodes.test_dataloader()
