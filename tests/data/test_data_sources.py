import os
from pathlib import Path

import pytest

from e0_lightning.data.sources import DemoSource, expand


def leaked(module):
    """Held-out demonstrations that are trained on."""
    training, held_out = (
        {(os.path.realpath(demo.reader.path), demo.name) for demo in part.demos}
        for part in module.datasets
    )
    return training & held_out, len(training) + len(held_out)


@pytest.mark.parametrize(
    "names",
    [["a.hdf5", "a.hdf5"], ["*.hdf5", "a*.hdf5"], ["*.hdf5", "link.hdf5"], ["a.hdf5", "hard.hdf5"]],
)
def test_a_file_that_is_named_twice_is_used_once(write_robomimic, robot_demos, tmp_path, names):
    path = write_robomimic("a.hdf5", demos=10)
    if "link.hdf5" in names:
        os.symlink(path, tmp_path / "link.hdf5")
    if "hard.hdf5" in names:
        os.link(path, tmp_path / "hard.hdf5")
    with pytest.warns(UserWarning, match="it is used once"):
        module = robot_demos(*(str(tmp_path / name) for name in names))
    assert leaked(module) == (set(), 10)


@pytest.mark.parametrize("options", [{"weight": 1.0}, {"instruction": "stop"}])
def test_a_file_in_two_entries_that_differ_is_refused(write_robomimic, robot_demos, options):
    path = write_robomimic()
    first = DemoSource(path, **({"weight": 2.0} if "weight" in options else {}))
    with pytest.raises(ValueError, match=r"expected a file in one entry, got .* entries 0 and 1"):
        robot_demos(first, DemoSource(path, **options))


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.h5", ["a.h5", "run[1]/c.h5", "x/b.h5", "x/y/d.h5"]),
        ("x/**", ["x/b.h5", "x/y/d.h5"]),
        ("run[1]/c.h5", ["run[1]/c.h5"]),
        ("run[1]/*.h5", ["run[1]/c.h5"]),
        ("x/[ab].h5", ["x/b.h5"]),
        ("{a,x/b}.h5", ["a.h5", "x/b.h5"]),
        ("x/y/../*.h5", ["x/y/../b.h5"]),
    ],
)
def test_patterns_match_as_in_a_shell(tmp_path, monkeypatch, pattern, expected):
    touch(tmp_path, "a.h5", "a.json", "run[1]/c.h5", "x/b.h5", "x/b.json", "x/y/d.h5")
    monkeypatch.chdir(tmp_path)
    assert expand(pattern) == expected
    assert [Path(path).name for path in expand(str(tmp_path / pattern))] == [
        Path(path).name for path in expected
    ]


def test_files_with_other_endings_are_left_out_with_a_warning(tmp_path):
    touch(tmp_path, "a.h5", "notes.txt")
    with pytest.warns(UserWarning, match=r"1 files are left out.*notes.txt"):
        assert expand(str(tmp_path / "*")) == [str(tmp_path / "a.h5")]
    assert len(expand(str(tmp_path / "*"), any_ending=True)) == 2


def test_patterns_without_a_match_name_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=rf"no file matches.*notes.txt.*from {tmp_path}"):
        expand("*")
