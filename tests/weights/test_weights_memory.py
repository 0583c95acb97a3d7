"""Peak memory of an import, measured in a separate process."""

import subprocess
import sys

import pytest
import yaml
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from .test_weights_import import settings
from .weights_tiny_models import TEXT, TOWER

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
    # Not getrusage: its peak is inherited from the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))

e0(["import-weights", *words("small")])  # loads the libraries
before = memory("VmRSS")
e0(["import-weights", *words("large")])
print(memory("VmHWM") - before)
"""


def prepare(folder, name, **sizes):
    """Write a PaliGemma in files of at most 40 MB and an experiment file; returns its bytes."""
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
def test_peak_memory_is_at_most_the_model_and_two_files(tmp_path):
    prepare(tmp_path, "small")
    size = prepare(tmp_path, "large", **LARGE)
    assert size > 200 * MB
    assert len(list((tmp_path / "large").glob("*.safetensors"))) > 4
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    peak = int(result.stdout.split()[-1])
    assert peak < size + 2 * SHARD * MB
