from collections import OrderedDict

import numpy as np
import pytest
from test_data_chunk_dataset import read_demos

from e0_lightning.data.block_sampler import BlockSampler
from e0_lightning.data.chunk_dataset import ChunkDataset


@pytest.fixture
def dataset(record):
    return ChunkDataset(read_demos(record(steps=(30,) * 40, chunk=6)), horizon=4)


def decodes(dataset, order, workers):
    """Count the blocks that workers decode when batches alternate between them."""
    blocks = dataset.blocks()
    count = 0
    for worker in range(workers):
        cache = OrderedDict()
        for sample in order[worker::workers].ravel():
            block = int(np.searchsorted(blocks.first, sample, side="right"))
            if block not in cache:
                cache[block] = None
                count += 1
                if len(cache) > dataset.buffer.max_blocks * 5 // 4 + 1:
                    cache.popitem(last=False)
    return count


def test_an_epoch_has_every_sample_once(dataset):
    order = BlockSampler(dataset, batch_size=20, num_workers=3).order()
    assert order.shape == (60, 20)
    assert sorted(order.ravel()) == list(range(1200))


def test_order_is_a_function_of_seed_and_epoch(dataset):
    def order(seed, epoch):
        shuffle = BlockSampler(dataset, batch_size=20, num_workers=2, seed=seed)
        shuffle.set_epoch(epoch)
        return shuffle.order().tolist()

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6)
    assert order(1, 5) != order(2, 5)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_block_is_decoded_about_once_with_any_number_of_workers(dataset, workers):
    dataset.buffer.max_blocks = 10
    order = BlockSampler(dataset, batch_size=16, num_workers=workers).order()
    assert decodes(dataset, order, workers) <= 1.1 * len(dataset.blocks().size)


def test_a_batch_has_samples_of_many_blocks(dataset):
    dataset.buffer.max_blocks = 40
    order = BlockSampler(dataset, batch_size=16).order()
    blocks = np.searchsorted(dataset.blocks().first, order, side="right")
    distinct = [len(set(batch)) for batch in blocks]
    assert np.median(distinct) >= 13


def test_ranks_share_the_samples_and_have_equally_many_batches(dataset):
    ranks = [BlockSampler(dataset, 16, 2, num_replicas=3, rank=rank) for rank in range(3)]
    orders = [shuffle.order() for shuffle in ranks]
    assert {order.shape for order in orders} == {(25, 16)}
    samples = np.concatenate([order.ravel() for order in orders])
    assert len(set(samples)) == len(samples) == 1200


def test_starts_in_the_middle_with_the_remaining_samples(dataset):
    whole = list(BlockSampler(dataset, batch_size=20, num_workers=2))
    late = BlockSampler(dataset, batch_size=20, num_workers=2)
    late.start = 7
    assert list(late) == whole[7 * 20 :]


def test_a_small_data_set_makes_one_small_batch(record):
    dataset = ChunkDataset(read_demos(record(steps=(5,))), horizon=4)
    assert sorted(BlockSampler(dataset, batch_size=64).order().tolist()[0]) == [0, 1, 2, 3, 4]


def test_refuses_fewer_samples_than_processes(record):
    dataset = ChunkDataset(read_demos(record(steps=(5,))), horizon=4)
    with pytest.raises(ValueError, match="one sample for each of 8 processes, got 5"):
        BlockSampler(dataset, batch_size=4, num_replicas=8)


def test_weights_are_shares_of_the_samples(record):
    few, many = record("few.h5", steps=(20,) * 2), record("many.h5", steps=(20,) * 38)
    dataset = ChunkDataset([*read_demos(few), *read_demos(many, source=1)], horizon=4)
    order = BlockSampler(dataset, batch_size=10, weights=[3.0, 1.0]).order()
    assert order.size == 800
    assert (order < 40).mean() == pytest.approx(0.75, abs=0.02)
    counts = np.bincount(order.ravel(), minlength=800)
    assert counts[:40].min() >= 14  # 600 draws of 40 samples: 15 each, except in cut passes
    assert counts[40:].max() == 1
