from pathlib import Path

import pytest

from e0_lightning.comparison.tables import options, read_table, read_tables

SHIPPED = Path(__file__).parents[2] / "experiments" / "compare"


def written(folder, text, name="table.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_files_become_configs_and_options_stay(tmp_path):
    table = read_table(written(tmp_path, "title: T\ntrained: {a: [x.yaml, --model.b=1]}"))
    assert table.base == "a"
    assert options(table.trained["a"]) == ["--config=x.yaml", "--model.b=1"]


@pytest.mark.parametrize(
    "text",
    ["[]", "title: T", "title: T\ntrained: {}", "title: T\ntrained: {a: x.yaml}", "a: {"],
)
def test_what_is_no_table_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"table\.yaml"):
        read_table(written(tmp_path, text))


def test_a_name_must_be_one_of_a_folder(tmp_path):
    with pytest.raises(ValueError, match="without a slash"):
        read_table(written(tmp_path, "title: T\ntrained: {a/b: []}"))


def test_a_name_means_the_same_everywhere(tmp_path):
    first = written(tmp_path, "title: T\ntrained: {a: []}")
    second = written(tmp_path, "title: T\ntrained: {a: [x.yaml]}", "other.yaml")
    assert len(read_tables([first, first])) == 2
    with pytest.raises(ValueError, match="another name"):
        read_tables([first, second])


def test_shipped_tables_compare_to_the_same_variant():
    policies, ablations = read_tables([SHIPPED / "policies.yaml", SHIPPED / "ablations.yaml"])
    assert policies.base == ablations.base == "E0"
    assert {"argmax", "categorical", "released"} <= set(ablations.sampled)
