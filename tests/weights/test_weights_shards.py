import json

import pytest
import torch

from e0_lightning.weights.shards import find_shards, read_names, read_tensors

from .weights_tiny_models import tiny_paligemma, write


@pytest.fixture
def tensors():
    return tiny_paligemma().state_dict()


class Payload:
    def __reduce__(self):
        return (exit, ("a pickle was executed",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickle_is_refused_without_being_opened(tmp_path, name):
    torch.save(Payload(), tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=r"pickle.*safetensors"):
            find_shards(str(source))


def test_pickle_named_safetensors_is_refused_without_being_unpickled(tmp_path):
    torch.save(Payload(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected a complete safetensors file"):
        read_names(find_shards(str(tmp_path)))


def test_truncated_shard_is_an_error_that_names_it(tmp_path, tensors):
    path = tmp_path / "model-00001-of-00001.safetensors"
    write(tensors, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"00001\.safetensors: expected a complete safetensors"):
        list(read_tensors(find_shards(str(tmp_path))))


def test_missing_shard_is_an_error_that_names_it(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"00001-of-00002.safetensors'\] are missing"):
        find_shards(str(tmp_path))


def test_only_files_listed_in_the_index_are_read(tmp_path, tensors):
    write(tensors, tmp_path / "model-00001-of-00001.safetensors")
    write({"extra": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "extra" not in read_names(find_shards(str(tmp_path)))
