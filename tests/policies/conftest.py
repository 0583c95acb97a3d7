"""Fixtures of the policy tests."""

import pytest

from e0_lightning.types import Batch
from tiny_policy import make_batch


@pytest.fixture
def batch() -> Batch:
    return make_batch()
