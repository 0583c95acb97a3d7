from collections import OrderedDict

import numpy as np
import pytest
from test_data_windows import episodes

from e0_lightning.data.block_sampler import BlockSampler
from e0_lightning.data.chunk_dataset import ChunkDataset


@pytest.fixture
def windows(record):
    return ChunkDataset(episodes(record(steps=(30,) * 40, chunk=6)), horizon=4)


def decodes(windows, order, workers):
    """Count the blocks that workers decode when batches are dealt to them in turn."""
    blocks = windows.blocks()
    count = 0
    for worker in range(workers):
        cache = OrderedDict()
        for window in order[worker::workers].ravel():
            block = int(np.searchsorted(blocks.first, window, side="right"))
            if block not in cache:
                cache[block] = None
                count += 1
                if len(cache) > windows.pool * 5 // 4 + 1:
                    cache.popitem(last=False)
    return count


def test_an_epoch_shows_every_window_once(windows):
    order = BlockSampler(windows, batch_size=20, lanes=3).order()
    assert order.shape == (60, 20)
    assert sorted(order.ravel()) == list(range(1200))


def test_order_is_a_function_of_seed_and_epoch(windows):
    def order(seed, epoch):
        shuffle = BlockSampler(windows, batch_size=20, lanes=2, seed=seed)
        shuffle.set_epoch(epoch)
        return shuffle.order().tolist()

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6)
    assert order(1, 5) != order(2, 5)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_block_is_decoded_about_once_whatever_the_workers(windows, workers):
    windows.pool = 10
    order = BlockSampler(windows, batch_size=16, lanes=workers).order()
    assert decodes(windows, order, workers) <= 1.1 * len(windows.blocks().size)


def test_a_batch_is_drawn_from_many_blocks(windows):
    windows.pool = 40
    order = BlockSampler(windows, batch_size=16).order()
    blocks = np.searchsorted(windows.blocks().first, order, side="right")
    distinct = [len(set(batch)) for batch in blocks]
    assert np.median(distinct) >= 13


def test_ranks_share_the_windows_and_have_equally_many_batches(windows):
    ranks = [BlockSampler(windows, 16, 2, world=(3, rank)) for rank in range(3)]
    orders = [shuffle.order() for shuffle in ranks]
    assert {order.shape for order in orders} == {(25, 16)}
    seen = np.concatenate([order.ravel() for order in orders])
    assert len(set(seen)) == len(seen) == 1200


def test_begins_in_the_middle_with_what_would_have_come(windows):
    whole = list(BlockSampler(windows, batch_size=20, lanes=2))
    late = BlockSampler(windows, batch_size=20, lanes=2)
    late.start = 7
    assert list(late) == whole[7 * 20 :]


def test_a_small_data_set_makes_one_small_batch(record):
    windows = ChunkDataset(episodes(record(steps=(5,))), horizon=4)
    assert sorted(BlockSampler(windows, batch_size=64).order().tolist()[0]) == [0, 1, 2, 3, 4]


def test_refuses_fewer_windows_than_processes(record):
    windows = ChunkDataset(episodes(record(steps=(5,))), horizon=4)
    with pytest.raises(ValueError, match="5 windows cannot be dealt to 8 processes"):
        BlockSampler(windows, batch_size=4, world=(8, 0))


def test_weights_are_shares_of_the_samples(record):
    few, many = record("few.h5", steps=(20,) * 2), record("many.h5", steps=(20,) * 38)
    windows = ChunkDataset([*episodes(few), *episodes(many, source=1)], horizon=4)
    order = BlockSampler(windows, batch_size=10, shares=[3.0, 1.0]).order()
    assert order.size == 800
    assert (order < 40).mean() == pytest.approx(0.75, abs=0.02)
    counts = np.bincount(order.ravel(), minlength=800)
    assert counts[:40].min() >= 14  # 600 samples of 40 windows: 15 each, but for cut passes
    assert counts[40:].max() == 1
