"""Importing takes the memory of the model and of one file at a time, measured in a process."""

import subprocess
import sys

import pytest
import yaml
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from .test_weights_import import settings
from .weights_world import TEXT, TOWER

MB = 1e6
SHARD = 40  # MB
LARGE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16}

SCRIPT = """
import sys
from pathlib import Path
from e0_lightning.cli import e0

def words(name):
    path = f"{sys.argv[1]}/{name}"
    return [f"--source={path}", f"--config={path}.yaml", f"--out={path}.ckpt"]

def memory(kind):
    # Not what getrusage says: that peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))

e0(["import-weights", *words("small")])  # imports what an import needs
before = memory("VmRSS")
e0(["import-weights", *words("large")])
print(memory("VmHWM") - before)
"""


def prepare(folder, name, **sizes):
    """A PaliGemma in files of at most 40 MB, and the experiment it is imported into; its bytes."""
    text = TEXT | sizes
    tower = TOWER | {"projection_dim": text["hidden_size"]}
    config = PaliGemmaConfig(
        vision_config=tower,
        text_config=dict(text),
        image_token_index=text["vocab_size"] - 1,
        projection_dim=text["hidden_size"],
    )
    model = PaliGemmaForConditionalGeneration(config)
    model.save_pretrained(folder / name, max_shard_size=f"{SHARD}MB")
    tree = settings(folder / "nothing.h5")
    tree["model"]["init_args"]["encoder"]["language"]["config"] = dict(text)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return sum(4 * parameter.numel() for parameter in model.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_the_model_and_one_file(tmp_path):
    prepare(tmp_path, "small")
    size = prepare(tmp_path, "large", **LARGE)
    assert size > 200 * MB
    assert len(list((tmp_path / "large").glob("*.safetensors"))) > 4
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    peak = int(answer.stdout.split()[-1])
    assert peak < size + 2 * SHARD * MB
