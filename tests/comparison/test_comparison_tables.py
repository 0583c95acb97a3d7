from pathlib import Path

import pytest

from e0_lightning.comparison.tables import read_table, read_tables, to_options

SHIPPED = Path(__file__).parents[2] / "experiments" / "compare"


def write(folder, text, name="table.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_files_become_config_options(tmp_path):
    config = write(tmp_path, "", "x.yaml")
    path = write(tmp_path, f"title: T\ntraining_variants: {{a: [{config}, --model.b=1]}}")
    table = read_table(path)
    assert table.baseline == "a"
    assert to_options(table.training_variants["a"]) == [f"--config={config}", "--model.b=1"]


def test_missing_file_of_a_variant_is_refused():
    with pytest.raises(ValueError, match=r"x\.yaml: expected a file"):
        to_options(["x.yaml"])


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "title: T",
        "title: T\ntraining_variants: {}",
        "title: T\ntraining_variants: {a: x.yaml}",
        "a: {",
    ],
)
def test_invalid_table_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"table\.yaml"):
        read_table(write(tmp_path, text))


def test_name_that_is_no_folder_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected names that can be folder names"):
        read_table(write(tmp_path, "title: T\ntraining_variants: {a/b: []}"))


def test_name_of_two_different_variants_is_refused(tmp_path):
    first = write(tmp_path, "title: T\ntraining_variants: {a: []}")
    second = write(tmp_path, "title: T\ntraining_variants: {a: [x.yaml]}", "other.yaml")
    assert len(read_tables([first, first])) == 2
    with pytest.raises(ValueError, match="Rename one of them"):
        read_tables([first, second])


def test_shipped_tables_share_their_baseline():
    policies, ablations = read_tables([SHIPPED / "policies.yaml", SHIPPED / "ablations.yaml"])
    assert policies.baseline == ablations.baseline == "E0"
    assert {"argmax", "categorical", "released"} <= set(ablations.inference_variants)
