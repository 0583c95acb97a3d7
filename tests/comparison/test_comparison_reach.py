import torch

from e0_lightning.benchmarks.two_way_reach import HORIZON, RADIUS, Reach, draw, judge, places, ways


def test_true_chunks_are_whole_in_proportion_and_on_their_way():
    obstacle = places(20_000)
    found = judge(draw(obstacle, 0.7), obstacle)
    assert abs(found.over.float().mean() - 0.7) < 0.015
    assert found.whole.all()
    assert abs(found.off.float().mean() - 0.001) < 0.001


def test_both_ways_pass_the_obstacle():
    obstacle = places(100)
    centre = torch.stack([torch.zeros(100), obstacle], dim=-1)
    distance = (ways(obstacle) - centre[:, None, None]).norm(dim=-1)
    assert distance.min() > RADIUS


def test_the_mean_of_the_ways_is_off_both():
    obstacle = places(100)
    assert judge(ways(obstacle).mean(dim=1), obstacle).off.all()


def test_a_chunk_that_changes_its_way_is_not_whole():
    obstacle = places(100)
    over, under = ways(obstacle).unbind(dim=1)
    changing = torch.cat([over[:, : HORIZON // 2], under[:, HORIZON // 2 :]], dim=1)
    assert not judge(changing, obstacle).whole.any()


def test_demonstrations_repeat_by_place():
    first, again, other = (Reach(0.7, 2).demos[place]["actions"] for place in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
