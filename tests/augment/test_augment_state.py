from types import SimpleNamespace
from typing import Any

import pytest
import torch

from e0_lightning.augment.state import StatePerturbation
from e0_lightning.data.robot_demos import RobotDemos


def perturbed(limits: dict[int, float], state: torch.Tensor, step: int = 0) -> torch.Tensor:
    batch: dict[str, Any] = {"state": state}
    trainer = SimpleNamespace(global_step=step, global_rank=0)
    StatePerturbation(limits).on_train_batch_start(trainer, None, batch, 0)
    return batch["state"]


def test_displacements_fill_the_limits_and_leave_other_dimensions_alone():
    state = torch.randn(2000, 3)
    moved = perturbed({1: 0.01, 2: 0.5}, state) - state
    assert (moved[:, 0] == 0).all()
    for dimension, limit in ((1, 0.01), (2, 0.5)):
        assert 0.99 * limit < moved[:, dimension].abs().max() <= limit * 1.001
        assert abs(moved[:, dimension].mean()) < 0.1 * limit


def test_the_state_given_stays_as_it_was():
    state = torch.ones(4, 2)
    perturbed({0: 0.1}, state)
    assert torch.equal(state, torch.ones(4, 2))


def test_draws_repeat_at_a_step_and_change_with_it():
    state = torch.zeros(4, 2)
    first = perturbed({0: 0.1}, state, step=3)
    torch.rand(7)  # the running state of torch's generator has no say
    assert torch.equal(first, perturbed({0: 0.1}, state, step=3))
    assert not torch.equal(first, perturbed({0: 0.1}, state, step=4))


@pytest.mark.parametrize("limits", [{}, {-1: 0.1}, {0: 0.0}, {0: 0.1, 1: -0.1}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(ValueError, match="from 0 on, to the largest displacement of each, above 0"):
        StatePerturbation(limits)


def test_a_dimension_the_state_lacks_is_refused():
    with pytest.raises(ValueError, match="names dimension 2, the batch has a 'state' of 2 dim"):
        perturbed({0: 0.1, 2: 0.1}, torch.zeros(4, 2))


def test_a_batch_without_a_state_is_refused():
    with pytest.raises(ValueError, match="the batch has no 'state'"):
        StatePerturbation({0: 0.1}).on_train_batch_start(None, None, {"images": {}}, 0)


def test_real_demonstrations_bring_the_state_it_takes(demos):
    data = RobotDemos(
        [str(demos)], ["base_camera"], ["qpos"], horizon=4, batch_size=2, num_workers=0
    )
    data.setup("fit")
    given = next(iter(data.train_dataloader()))["state"]
    moved = perturbed({7: 0.01, 8: 0.01}, given) - given
    assert (moved[:, :7] == 0).all()
    assert (moved[:, 7:] != 0).all()
