import torch

from e0_lightning.benchmarks.two_way_reach import (
    HORIZON,
    RADIUS,
    ReachDataModule,
    evaluate_chunks,
    sample_chunks,
    sample_obstacles,
    ways,
)


def test_demonstrations_have_the_share_are_consistent_and_on_the_manifold():
    obstacle = sample_obstacles(20_000)
    evaluation = evaluate_chunks(sample_chunks(obstacle, 0.7), obstacle)
    assert abs(evaluation.over.float().mean() - 0.7) < 0.015
    assert evaluation.consistent.all()
    assert abs(evaluation.off_manifold.float().mean() - 0.001) < 0.001


def test_both_ways_avoid_the_obstacle():
    obstacle = sample_obstacles(100)
    center = torch.stack([torch.zeros(100), obstacle], dim=-1)
    distance = (ways(obstacle) - center[:, None, None]).norm(dim=-1)
    assert distance.min() > RADIUS


def test_mean_of_both_ways_is_off_manifold():
    obstacle = sample_obstacles(100)
    assert evaluate_chunks(ways(obstacle).mean(dim=1), obstacle).off_manifold.all()


def test_chunk_that_changes_its_way_is_not_consistent():
    obstacle = sample_obstacles(100)
    over, under = ways(obstacle).unbind(dim=1)
    changing = torch.cat([over[:, : HORIZON // 2], under[:, HORIZON // 2 :]], dim=1)
    assert not evaluate_chunks(changing, obstacle).consistent.any()


def test_batches_are_a_function_of_their_index():
    first, again, other = (ReachDataModule(0.7, 2).dataset[n]["actions"] for n in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
