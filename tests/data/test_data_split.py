import json

import numpy as np
import pytest

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.sources import DemoSource
from e0_lightning.inspection.inspect import inspect


def masks(**lists):
    """An edit that writes ``mask/<name>`` lists of demonstration numbers."""

    def edit(file):
        for name, numbers in lists.items():
            file[f"mask/{name}"] = np.array([f"demo_{number}".encode() for number in numbers])

    return edit


def names(module):
    return [[demo.name for demo in part.demos] if part else [] for part in module.datasets]


def test_the_lists_of_the_file_decide_the_split(write_robomimic, robot_demos, capsys):
    path = write_robomimic(edit=masks(train=[0, 1], valid=[5]))
    with pytest.warns(UserWarning, match="3 of 6 demonstrations are in neither"):
        module = robot_demos(path)
    assert names(module) == [["demo_0", "demo_1"], ["demo_5"]]
    with pytest.warns(UserWarning, match="in neither"):
        inspect([path])
    assert "split         2 to train on, 1 held out" in capsys.readouterr().out


def test_the_lists_may_be_ignored(write_robomimic, robot_demos):
    path = write_robomimic(edit=masks(train=[0, 1], valid=[5]))
    training, held_out = names(robot_demos(DemoSource(path, instruction="go", use_masks=False)))
    assert (len(training), len(held_out)) == (5, 1)


def test_what_the_file_holds_out_is_not_trained_on_without_validation(write_robomimic, robot_demos):
    path = write_robomimic(edit=masks(valid=[2]))
    training, held_out = names(robot_demos(path, val_fraction=0))
    assert "demo_2" not in training
    assert (len(training), held_out) == (5, [])


def test_a_training_list_alone_is_split_by_val_fraction(write_robomimic, robot_demos):
    path = write_robomimic(edit=masks(train=[0, 1, 2, 3, 4, 5]))
    training, held_out = names(robot_demos(path, val_fraction=0.3))
    assert (len(training), len(held_out)) == (4, 2)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": [0, 1], "valid": [1]}, "both name demo_1"),
        ({"train": [0], "valid": [9]}, "name demo_9 .* does not have"),
    ],
)
def test_lists_that_overlap_or_name_missing_demos_are_refused(
    write_robomimic, robot_demos, lists, message
):
    with pytest.raises(ValueError, match=f"{message}.*use_masks: false"):
        robot_demos(write_robomimic(edit=masks(**lists)))


def test_each_demo_has_its_own_instruction(write_robomimic):
    def edit(file):
        for number, demo in enumerate(file["data"].values()):
            demo.attrs["ep_meta"] = json.dumps({"lang": f"do task {number % 2}"})

    module = RobotDemos([write_robomimic(edit=edit)], ["front"], ["joint_pos"], 4, num_workers=0)
    module.setup("fit")
    assert module.instructions == ["do task 0", "do task 1"]
    batch = module.datasets[0].__getitems__([0, 24])
    expected = [f"do task {int(demo[-1]) % 2}" for demo in batch["demo"]]
    assert batch["instruction"] == expected


def test_failed_demos_are_left_out(write_robomimic, robot_demos):
    path = write_robomimic(
        edit=lambda file: file["data/demo_1"].attrs.__setitem__("success", False)
    )
    assert all("demo_1" not in part for part in names(robot_demos(path)))


@pytest.mark.parametrize("key", ["actions", "obs/joint_pos"])
def test_values_of_held_out_demos_are_checked_at_set_up(write_robomimic, robot_demos, capsys, key):
    held_out = robot_demos(write_robomimic("clean.hdf5")).datasets[1].demos[0].name

    def edit(file):
        file[f"data/{held_out}/{key}"][20, 1] = np.nan

    path = write_robomimic(edit=edit)
    part = key.split("/")[-1]
    with pytest.raises(ValueError, match=f"{held_out}/{part} at step 20: expected finite"):
        robot_demos(path)
    with pytest.raises(SystemExit):
        inspect([path])
    assert f"{held_out}/{part} at step 20" in capsys.readouterr().out
