import torch

from e0_lightning.networks.positions import sine_cosine, sine_cosine_grid


def test_tau_embedding_separates_near_levels():
    near = sine_cosine(torch.tensor([0.975, 0.98]), 64)
    assert (near[0] - near[1]).norm() > 0.1


def test_cells_of_a_feature_map_have_distinct_positions():
    for side in (8, 32):
        grid = sine_cosine_grid(side, side, 34)
        distances = torch.cdist(grid, grid) + torch.eye(side**2) * 10
        assert distances.min() > 0.5
        assert grid[:, 32:].eq(0).all()
