"""Fixtures of the training tests."""

import pytest
from tiny_policy import make_batch

from e0_lightning.types import Batch


@pytest.fixture
def batch() -> Batch:
    return make_batch()
