"""A server around a scripted actor."""

import pytest
from serving_world import running

from e0_lightning.serving import BatchingConfig


@pytest.fixture
def server():
    with running(limits=BatchingConfig(max_batch=8, max_wait=0.02, grace=5.0)) as one:
        yield one
