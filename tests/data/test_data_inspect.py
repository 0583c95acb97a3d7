import h5py
import numpy as np
import pytest

from e0_lightning.inspection.inspect import inspect


def test_describes_a_real_recording(real, capsys):
    inspect([str(real)])
    lines = " ".join(capsys.readouterr().out.split())
    for text in (
        "format ManiSkill 3",
        "task PushCube-v1",
        "'push the cube to the target region'",
        "control mode pd_joint_pos",
        "demos 2, without 0 failed",
        "steps 128 in all; 63 / 64.0 / 65",
        "base_camera: 128 x 128 px, intrinsics known, chunks 17 × 32 × 32 × 1 (1 demonstrations)",
        "state qpos: 9",
        "rate 20 Hz",
        "lag 1 steps (50 ms) from action to motion; 7 dimensions",
        "hazard constant: no motion in actions[7].",
    ):
        assert text in lines


def test_prints_the_range_of_each_action_and_state(record, capsys):
    path = record(steps=(200,), dim=2)
    inspect([path])
    expected = [0, 1.99, 197.01, 199]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in ("actions[1]", "qpos[1]"):
        (row,) = [row for row in rows if row[0] == name]
        np.testing.assert_allclose([float(value) for value in row[1:5]], expected)
    (row,) = [row for row in rows if row[0] == "qpos[0]"]
    assert row[-1] == "constant"


def test_names_the_problems_of_one_file_and_continues(record, capsys):
    bad, good = record("bad.h5"), record("good.h5", dim=2)
    with h5py.File(bad, "a") as file:
        file["traj_1/actions"][4, 2] = np.nan
    with pytest.raises(SystemExit) as stop:
        inspect([bad, good])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "traj_1/actions at step 4" in out
    assert "good.h5\n  format" in out


def test_verifying_reads_every_image_and_counts_checksums(write_robomimic, capsys):
    def damage(file):
        offset = file["data/demo_3/obs/front_image"].id.get_chunk_info(0).byte_offset
        damaged.append(offset)

    damaged = []
    path = write_robomimic(edit=damage, chunks=(4, 16, 16, 3), fletcher32=True)
    inspect([path], verify=True)
    assert "6 of 6 image sets have checksums" in capsys.readouterr().out
    with open(path, "r+b") as file:
        file.seek(damaged[0] + 10)
        byte = file.read(1)[0]
        file.seek(damaged[0] + 10)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(SystemExit):
        inspect([path], verify=True)
    assert "demo_3/obs/front_image, steps 0 to 4" in capsys.readouterr().out
