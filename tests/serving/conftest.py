"""A server with a scripted actor."""

import pytest
from scripted_server import running

from e0_lightning.serving import BatchingConfig, ServerLimits


@pytest.fixture
def server():
    batching, limits = BatchingConfig(max_batch=8, max_wait=0.02), ServerLimits(grace=5.0)
    with running(batching=batching, limits=limits) as started:
        yield started
