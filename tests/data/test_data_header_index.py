"""The index of headers and results that is kept beside many files."""

import gc
import json
import logging
import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.data import header_index, open_files
from e0_lightning.data.chunk_dataset import ChunkDataset
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.sources import DemoSource
from e0_lightning.policies.fitting import fit_statistics

STEPS = 3
FILES = 12

KEY_MAP = """
images: {"*": observations/images/*}
state: {qpos: observations/qpos}
actions: action
instruction: attrs/task
control_mode: joint_position
file: {success: attrs/success}
"""


def write_episode(path, seed, steps=STEPS, **attributes):
    """An episode of ACT's layout, small."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as root:
        root.attrs.update({"sim": True, **attributes})
        root["observations/images/top"] = rng.integers(0, 255, (steps, 4, 4, 3), np.uint8)
        root["observations/qpos"] = rng.random((steps, 2), np.float32)
        root["action"] = rng.random((steps, 2), np.float32)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch):
    monkeypatch.setattr(header_index, "MIN_FILES", FILES - 2)
    monkeypatch.setattr(open_files, "MAX_FILES", 5)


@pytest.fixture
def folder(tmp_path):
    for number in range(FILES):
        write_episode(tmp_path / f"episode_{number:02d}.hdf5", number)
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """Names of the HDF5 files that were opened so far."""
    names, plain = [], h5py.h5f.open

    def count(name, *args, **kwargs):
        names.append(Path(os.fsdecode(name)).name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(h5py.h5f, "open", count)
    return names


def start(folder, **options):
    """Set a data module up as a new process does."""
    source = DemoSource(str(folder / "*.hdf5"), instruction="go")
    settings = {"demos": [source], "views": ["top"], "state": ["qpos"], "horizon": 2}
    defaults = {"batch_size": 16, "num_workers": 0, "val_fraction": 0.1}
    module = RobotDemos(**{**settings, **defaults, **options})
    module.setup("fit")
    return module


def fit(module, kind=QuantileNormalizer, relative=None, **options):
    """Fit normalizers to a data module; their buffers by name."""
    actions = ActionSpace(module.horizon, kind(2, **options), relative)
    state = QuantileNormalizer(2)
    fit_statistics(module, actions.resolve_state(module.spec), state)
    return {**dict(actions.normalizer.named_buffers()), "state": state.low}


def described(module):
    """All that set-up knows of the demonstrations."""
    parts = [part for part in module.datasets if part is not None]
    demos = [(demo.reader.path, *demo[1:]) for part in parts for demo in part.demos]
    return demos, module.spec, module.instructions, parts[0].calibrated


def index_of(folder):
    (path,) = folder.glob(".e0_*")
    return path


def test_the_second_start_opens_no_file_before_the_first_batch(folder, opened):
    first = start(folder)
    statistics, known = fit(first), described(first)
    assert set(opened) == {path.name for path in folder.glob("*.hdf5")}
    opened.clear()
    second = start(folder)
    again = fit(second)
    assert described(second) == known
    assert {name: each.tolist() for name, each in again.items()} == {
        name: each.tolist() for name, each in statistics.items()
    }
    assert opened == []
    next(iter(second.train_dataloader()))
    assert 0 < len(set(opened)) <= FILES


def test_the_first_start_opens_a_file_once_for_headers_and_once_for_numbers(folder, opened):
    fit(start(folder))
    assert len(opened) == 2 * len(set(opened))


def test_only_files_that_changed_are_read_again(folder, opened):
    start(folder)
    opened.clear()
    write_episode(folder / "episode_05.hdf5", 5, steps=7)
    write_episode(folder / "episode_99.hdf5", 99, steps=8)
    (folder / "episode_06.hdf5").unlink()
    module = start(folder, val_fraction=0)
    assert set(opened) == {"episode_05.hdf5", "episode_99.hdf5"}
    steps = {Path(demo.reader.path).stem: demo.steps for demo in module.datasets[0].demos}
    expected = {f"episode_{i:02d}": STEPS for i in range(FILES) if i != 6}
    assert steps == {**expected, "episode_05": 7, "episode_99": 8}
    opened.clear()
    start(folder, val_fraction=0)
    assert opened == []
    assert "episode_06" not in index_of(folder).read_text()


def test_statistics_are_those_of_the_files_as_they_are_now(folder):
    def expected():
        chunks = []
        for path in sorted(folder.glob("*.hdf5")):
            with h5py.File(path) as root:
                actions = root["action"][:]
            chunks += [actions[t : t + 2] for t in range(len(actions))]
        return np.quantile(np.concatenate(chunks), [0.01, 0.99], axis=0)

    for seed in (None, None, 1000):
        if seed is not None:
            write_episode(folder / "episode_05.hdf5", seed, steps=9)
        low, high = expected()
        fitted = fit(start(folder, val_fraction=0))
        np.testing.assert_allclose(fitted["low"], low, rtol=1e-5)
        np.testing.assert_allclose(fitted["high"], high, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": MeanStdNormalizer},
        {"low": 0.2},
        {"relative": RelativeActions([0], {"qpos": [0]})},
        {"relative": RelativeActions([0], {"qpos": [1]})},
    ],
)
def test_statistics_of_other_settings_are_computed_anew_and_kept_beside(folder, opened, options):
    plain = fit(start(folder))
    fitted = fit(start(folder), **options)
    opened.clear()
    again = fit(start(folder), **options)
    assert {name: each.tolist() for name, each in fitted.items()} == {
        name: each.tolist() for name, each in again.items()
    }
    assert next(iter(fitted.values())).tolist() != plain["low"].tolist()
    assert fit(start(folder))["low"].equal(plain["low"])
    assert opened == []


def test_a_warning_about_actions_is_given_at_every_start(folder):
    for path in folder.glob("*.hdf5"):
        with h5py.File(path, "a") as root:
            root["action"][:, 0] = [3.1, -3.1, 3.1]
    for _ in range(2):
        with pytest.warns(UserWarning, match="dimension 0 jumps"):
            fit(start(folder))


def test_batches_are_equal_with_and_without_an_index(folder):
    first = list(start(folder).train_dataloader())
    second = list(start(folder).train_dataloader())
    for one, other in zip(first, second, strict=True):
        assert one["demo"] == other["demo"]
        for name in ("actions", "state", "step", "valid"):
            assert torch.equal(one[name], other[name])
        assert torch.equal(one["images"]["top"], other["images"]["top"])


def test_other_state_parts_and_views_are_read_anew(folder, opened):
    start(folder)
    opened.clear()
    module = start(folder, views=[], state=["qpos", "qpos"])
    assert module.spec.views == {}
    assert len(set(opened)) == FILES
    assert len(list(folder.glob(".e0_*"))) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04", "half"])
def test_a_damaged_index_is_replaced(folder, opened, content, caplog):
    known = described(start(folder))
    index = index_of(folder)
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with caplog.at_level(logging.INFO):
        assert described(start(folder)) == known
    assert "is damaged: headers are read again" in caplog.text
    assert index.read_bytes() == whole
    assert len(list(folder.glob(".e0_*"))) == 1


def test_an_index_that_cannot_be_written_is_said_once(folder, caplog, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied", target)

    monkeypatch.setattr(os, "replace", refuse)
    with caplog.at_level(logging.INFO):
        fit(start(folder))
    assert caplog.text.count("index cannot be written") == 1
    assert f"headers of {FILES} files are read again at every start" in caplog.text
    assert not list(folder.glob(".e0_*"))


def test_an_index_of_another_version_is_not_used(folder, opened, monkeypatch):
    start(folder)
    opened.clear()
    monkeypatch.setattr("e0_lightning.data.header_index.version", lambda package: "99.0")
    start(folder)
    assert len(set(opened)) == FILES


def test_few_files_have_no_index(folder):
    for path in sorted(folder.glob("*.hdf5"))[FILES - 3 :]:
        path.unlink()
    start(folder)
    assert not list(folder.glob(".e0_*"))


def test_a_file_that_changes_after_set_up_is_refused(folder):
    for time in (1, 2):
        module = start(folder)
        write_episode(folder / "episode_07.hdf5", 7, steps=STEPS)
        os.utime(folder / "episode_07.hdf5", ns=(time, time))
        with pytest.raises(ValueError, match=r"episode_07\.hdf5: expected the file as it was"):
            module.datasets[0].__getitems__(range(len(module.datasets[0])))


def test_a_held_out_file_that_turns_bad_is_refused_at_the_next_start(folder):
    held_out = start(folder).datasets[1].demos[0].reader.path
    with h5py.File(held_out, "a") as root:
        root["action"][1, 0] = np.nan
    with pytest.raises(ValueError, match=r"action.* at step 1: expected finite numbers"):
        start(folder)


def test_a_sidecar_that_changes_is_noticed(record, tmp_path):
    for number in range(FILES):
        record(f"{number:02d}.h5", steps=(2, 3), first=2 * number, side=4)
    pattern = str(tmp_path / "*.h5")
    options = {"demos": [pattern], "views": ["cam"], "val_fraction": 0}
    assert len(start(tmp_path, **options).datasets[0].demos) == 2 * FILES
    sidecar = tmp_path / "07.json"
    content = json.loads(sidecar.read_text())
    content["episodes"][0]["success"] = False
    sidecar.write_text(json.dumps(content))
    module = start(tmp_path, **options)
    assert len(module.datasets[0].demos) == 2 * FILES - 1
    assert module.datasets[0].calibrated == ["cam"]


def test_a_key_map_that_changes_is_noticed(tmp_path, opened):
    key_map = tmp_path / "lab.yaml"
    key_map.write_text(KEY_MAP)
    for number in range(FILES):
        attributes = {"task": f"task {number % 3}", "success": number != 4}
        write_episode(tmp_path / f"{number}.hdf5", number, **attributes)
    options = {"demos": [DemoSource(str(tmp_path / "*.hdf5"), key_map=str(key_map))]}
    known = described(start(tmp_path, **options))
    assert len(known[0]) == FILES - 1
    assert known[2] == ["task 0", "task 1", "task 2"]
    opened.clear()
    assert described(start(tmp_path, **options)) == known
    assert opened == []
    key_map.write_text(KEY_MAP.replace("attrs/success", "[]"))
    assert len(described(start(tmp_path, **options))[0]) == FILES


def test_sentences_beside_the_files_are_noticed_when_they_change_or_appear(tmp_path):
    key_map = tmp_path / "lab.yaml"
    beside = "['{stem}.json/seen/0', notes_*.json/words, attrs/task]"
    content = KEY_MAP.replace("success: attrs/success", "").replace("attrs/task", beside)
    key_map.write_text(content)
    for number in range(FILES):
        write_episode(tmp_path / f"{number}.hdf5", number, task="attribute")
    (tmp_path / "3.json").write_text('{"seen": ["first"]}')

    def sentences():
        demos = [DemoSource(str(tmp_path / "*.hdf5"), key_map=str(key_map))]
        return start(tmp_path, demos=demos).instructions

    assert sentences() == sentences() == ["attribute", "first"]
    (tmp_path / "3.json").write_text('{"seen": ["second"]}')
    assert sentences() == ["attribute", "second"]
    (tmp_path / "4.json").write_text('{"seen": ["third"]}')
    assert sentences() == ["attribute", "second", "third"]
    (tmp_path / "notes_b.json").write_text('{"words": "fourth"}')
    assert sentences() == ["fourth", "second", "third"]
    (tmp_path / "notes_a.json").write_text('{"words": "fifth"}')
    assert sentences() == ["fifth", "second", "third"]


def test_files_that_are_not_local_are_read_at_every_start(folder, opened):
    (folder / "episode_00.hdf5").rename(folder / "other.h5")
    remote = f"file://{folder}/other.h5"
    demos = [DemoSource(str(folder / "*.hdf5"), instruction="go"), DemoSource(remote, None, "go")]
    low = fit(start(folder, demos=demos, val_fraction=0))["low"]
    with h5py.File(folder / "other.h5", "a") as root:
        root["action"][:] = -9.0
    opened.clear()
    module = start(folder, demos=demos, val_fraction=0)
    assert len(opened) == 1
    assert (fit(module)["low"] < low).all()


READER = """
from pathlib import Path
import numpy as np
from e0_lightning.data.formats.base import DemoReader

class TextReader(DemoReader):
    control_mode = "joint_position"
    def lengths(self): return {"demo": int(Path(self.path).read_text())}
    def read_actions(self, demo, start, stop): return np.zeros((stop - start, 2))
    def read_states(self, demo, start, stop): return {"qpos": np.zeros((stop - start, 2))}
    def read_images(self, demo, start, stop): return {}
"""


def test_a_reader_whose_code_or_file_changes_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "text_reader.py").write_text(READER)
    for number in range(FILES):
        (tmp_path / f"{number}.txt").write_text("2")
    monkeypatch.syspath_prepend(tmp_path)

    def steps():
        import linecache
        import sys

        sys.modules.pop("text_reader", None)
        linecache.clearcache()
        from text_reader import TextReader

        source = DemoSource(str(tmp_path / "*.txt"), reader=TextReader, instruction="go")
        return len(start(tmp_path, demos=[source], views=[], val_fraction=0).datasets[0])

    assert steps() == 2 * FILES
    (tmp_path / "7.txt").write_text("4")
    os.utime(tmp_path / "7.txt", ns=(1, 1))
    assert steps() == 2 * FILES + 2
    code = READER.replace("read_text())}", "read_text()) + 1}")
    (tmp_path / "text_reader.py").write_text(code + "\n")
    assert steps() == 3 * FILES + 2


def test_lists_of_demonstrations_are_kept(write_robomimic, tmp_path, opened):
    def edit(file):
        file["mask/train"], file["mask/valid"] = [b"demo_0", b"demo_1"], [b"demo_2"]

    for number in range(FILES):
        write_robomimic(f"{number}.hdf5", demos=3, steps=3, side=4, edit=edit)
    options = {"views": ["front"], "state": ["joint_pos"]}
    known = described(start(tmp_path, **options))
    assert [name for _, name, *_ in known[0]].count("demo_2") == FILES
    opened.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert described(start(tmp_path, **options)) == known
    assert opened == []


def count_files():
    """HDF5 files that are open in this process."""
    return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_process_keeps_few_files_open(folder, monkeypatch, num_workers):
    plain = ChunkDataset.__getitems__

    def count_open(dataset, indices):
        batch = plain(dataset, indices)
        batch["demo"] = [count_files()]
        return batch

    monkeypatch.setattr(ChunkDataset, "__getitems__", count_open)
    gc.collect()
    module = start(folder, num_workers=num_workers, val_fraction=0.5, batch_size=8)
    assert count_files() == 0
    batches = [*module.train_dataloader(), *module.val_dataloader()[0]]
    counts = [batch["demo"][0] for batch in batches]
    assert max(counts) == 5
    module.teardown("fit")
    assert count_files() == 0
