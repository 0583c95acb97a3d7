import json

import numpy as np
import pytest
import torch
from PIL import Image

from e0_lightning.benchmarks.multimodality import modes, readings, train
from e0_lightning.benchmarks.two_way_reach import judge, observe, places


def played(name, reading, obstacle):
    """Chunks of a briefly trained policy, read in one of its ways, judged."""
    policy = train(name, 200, share=0.5)
    next(each for each in readings(name, policy) if each == reading)
    return judge(policy.act(observe(obstacle)), obstacle)


def test_regression_takes_neither_way():
    averaged = played("Regression", "Regression", places(200))
    # Under an absolute error, at equal shares, all that lies between the ways is as good.
    assert averaged.off.float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "reading"),
    [("E0", "E0, steps where it tells"), ("E0, self-conditioned", "E0, self-conditioned")],
)
def test_e0_takes_both_ways(name, reading):
    kept = played(name, reading, places(200))
    assert 0.25 < kept.over.float().mean() < 0.75
    assert kept.whole.float().mean() > 0.6
    assert kept.off.float().mean() < 0.5


def test_the_benchmark_leaves_a_table_figures_and_a_picture(tmp_path, capsys):
    torch.manual_seed(0)
    modes(tmp_path, steps=2, draws=50, only=["Autoregressive", "FlowMatching"])
    rows = json.loads((tmp_path / "modes.json").read_text())["rows"]
    named = ["truth", "Autoregressive, greedy", "Autoregressive, drawn", "FlowMatching"]
    assert list(rows) == named
    assert rows["truth"]["whole"] == 1.0
    assert rows["FlowMatching"]["off"] > 0.9  # two steps teach nothing
    picture = np.asarray(Image.open(tmp_path / "modes.png").convert("L"))
    # Each panel shows the grey obstacle.
    assert all((panel == 0xBB).sum() > 100 for panel in np.array_split(picture, 4, axis=1))
    assert "| truth |" in capsys.readouterr().out


def test_a_policy_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no \['E1'\]"):
        modes(tmp_path, only=["E1"])
