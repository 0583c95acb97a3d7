import pytest
import torch

from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.schedules import UniformSchedule


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_paths_lead_from_noise_to_actions_at_their_velocity():
    flow, actions = RectifiedFlow(), torch.rand(3, 4, 2)
    noise = flow.corrupt(actions, torch.zeros(3), seeded()).x_tau
    start = flow.corrupt(actions, torch.full((3,), 0.3), seeded())
    torch.testing.assert_close(start.velocity, actions - noise)
    torch.testing.assert_close(start.x_tau + 0.7 * start.velocity, actions)
    torch.testing.assert_close(flow.corrupt(actions, torch.ones(3), seeded()).x_tau, actions)


def test_invalid_actions_do_not_affect_the_noisy_chunk():
    flow, valid = RectifiedFlow(), torch.tensor([True, False]).expand(2, 3, 2)
    tau = torch.tensor([0.4, 0.9])
    points = [flow.corrupt(torch.full((2, 3, 2), x), tau, seeded(), valid) for x in (0.5, -1.0)]
    assert torch.equal(points[0].x_tau[..., 1], points[1].x_tau[..., 1])
    assert not torch.equal(points[0].x_tau[..., 0], points[1].x_tau[..., 0])


def test_a_straight_field_is_integrated_exactly_in_one_step():
    target = torch.tensor([0.3, -0.8])
    flow, straight = RectifiedFlow(), lambda x, tau: (target - x) / (1 - tau[:, None, None])
    for steps in (1, 2, 10):
        states = [*flow.integrate(straight, (5, 3, 2), UniformSchedule()(steps), seeded())]
        assert len(states) == steps + 1
        torch.testing.assert_close(states[-1], target.expand(5, 3, 2))


def test_the_exact_field_of_two_modes_keeps_their_proportions():
    """Actions are 1 with probability 0.7, else -1; ``E[A - ε | x]`` is known in closed form."""

    def velocity(x, tau):
        level = tau[:, None, None]
        mean = torch.tanh((level * x / (1 - level) ** 2) + 0.5 * torch.tensor(0.7 / 0.3).log())
        return (mean - x) / (1 - level)

    taus = UniformSchedule()(100)
    *_, ends = RectifiedFlow().integrate(velocity, (4000, 1, 1), taus, seeded())
    assert (ends.abs() - 1).abs().max() < 0.01
    assert (ends > 0).float().mean().item() == pytest.approx(0.7, abs=0.03)


def test_the_field_is_evaluated_at_the_given_levels():
    evaluated = []

    def velocity(x, tau):
        evaluated.append(tau)
        return torch.ones_like(x)

    taus = torch.tensor([0.0, 0.25, 0.9])
    states = [*RectifiedFlow().integrate(velocity, (2, 3, 1), taus, seeded())]
    torch.testing.assert_close(torch.stack(evaluated), taus[:, None].expand(3, 2))
    torch.testing.assert_close(states[-1] - states[0], torch.ones(2, 3, 1))


def test_loss_is_the_squared_error_of_valid_values():
    predicted, velocity = torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[0.5, 0.0]]])
    loss = RectifiedFlow().loss(predicted, velocity, torch.tensor([[[True, False]]]))
    assert loss.item() == pytest.approx(0.25)


def test_rows_with_their_own_generators_do_not_depend_on_the_batch():
    flow, taus = RectifiedFlow(), UniformSchedule()(4)

    def integrate(*seeds):
        generators = [seeded(seed) for seed in seeds]
        shape = (len(seeds), 3, 2)
        *_, end = flow.integrate(lambda x, tau: x.tanh(), shape, taus, generators)
        return end

    together = integrate(1, 2, 3)
    assert together[1:2].equal(integrate(2))
    assert together[[2, 0]].equal(integrate(3, 1))
    assert not together[0].equal(together[1])
