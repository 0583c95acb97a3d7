import pytest
import torch

from e0_lightning.data.transport import BUFFERS, ImageBuffers


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        if isinstance(value, dict):
            assert_equal(value, other[key])
        elif isinstance(value, torch.Tensor):
            assert value.equal(other[key])
            assert (value.stride(), value.dtype) == (other[key].stride(), other[key].dtype)
        else:
            assert value == other[key]


@pytest.mark.parametrize("n_obs_steps", [1, 3])
def test_batches_of_a_worker_equal_those_without_one_while_all_are_held(
    write_robomimic, robot_demos, n_obs_steps
):
    path = write_robomimic()  # 120 samples to train on: more batches than buffers
    common = {"n_obs_steps": n_obs_steps, "batch_size": 2}
    expected = list(robot_demos(path, **common).train_dataloader())
    loader = robot_demos(path, num_workers=1, **common).train_dataloader()
    for _ in range(2):  # the second time with buffers that the first has used
        held = list(loader)
        assert len(held) == len(expected) > 2 * BUFFERS
        for batch, other in zip(held, expected, strict=True):
            assert_equal(batch, other)


def test_batches_of_a_worker_equal_those_without_one_while_none_is_held(
    write_robomimic, robot_demos
):
    path = write_robomimic(chunks=(5, 16, 16, 3), compression="gzip")
    loaders = [robot_demos(path, num_workers=n).train_dataloader() for n in (0, 1)]
    for batch, other in zip(*loaders, strict=True):
        assert_equal(batch, other)


def test_a_buffer_is_free_again_when_its_batch_is_gone():
    buffers = ImageBuffers(num_workers=2, arrays=1, size=48)
    taken = [buffers.take(1) for _ in range(BUFFERS)]
    assert taken == list(range(BUFFERS, 2 * BUFFERS))
    assert buffers.take(1) is None
    images = torch.from_numpy(buffers.receive(taken[3], (1, 4, 4, 3)))
    row = images[0]
    del images
    assert buffers.take(1) is None
    del row
    assert buffers.take(1) == taken[3]
