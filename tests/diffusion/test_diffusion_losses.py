"""The mean over valid tokens on two processes, whose gradients are averaged, is that on one."""

import multiprocessing

import pytest
import torch
from torch import distributed

from e0_lightning.diffusion.losses import masked_mean

VALUES = torch.arange(1.0, 9.0).view(2, 4)
VALID = torch.tensor([[True, False, False, False], [True, True, True, False]])


def mean_and_gradient(weight, values, valid):
    weight = torch.tensor(weight, requires_grad=True)
    loss = masked_mean((weight * values).square(), valid)
    loss.backward()
    return loss.detach(), weight.grad


def run_process(rank, address, queue):
    distributed.init_process_group("gloo", f"file://{address}", rank=rank, world_size=2)
    values, valid = VALUES[rank], VALID[rank]
    results = torch.stack(mean_and_gradient(0.7, values, valid))
    distributed.all_reduce(results)
    # Without gradients a process computes the mean alone, as in validation.
    alone = masked_mean(values, valid) if rank == 0 else torch.tensor(0.0)
    queue.put(((results / 2).tolist(), alone.item()))
    distributed.barrier()


@pytest.mark.skipif(not distributed.is_available(), reason="torch is built without distributed")
def test_processes_with_other_masks_average_to_the_mean_over_all_valid_values(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=run_process, args=(rank, tmp_path / "store", queue))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    expected = torch.stack(mean_and_gradient(0.7, VALUES, VALID)).tolist()
    assert [results for results, _ in answers] == [pytest.approx(expected)] * 2
    assert sorted(alone for _, alone in answers) == [0.0, VALUES[0, 0].item()]


def test_nothing_valid_is_zero():
    values = torch.full((3,), torch.nan, requires_grad=True)
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)) == 0
