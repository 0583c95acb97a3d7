from itertools import chain, count, islice

import pytest

from e0_lightning.collection.attempts import Shard


def test_the_seeds_of_all_shards_are_all_seeds_once():
    shards = [islice(Shard.parse(f"{index}/3").select(count()), 4) for index in (1, 2, 3)]
    assert sorted(chain(*shards)) == list(range(12))


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "1/", "one/two", "-1/4"])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(ValueError, match="shard: expected <index>/<count>"):
        Shard.parse(text)
