"""Comparison of the constructor tree of a checkpoint with that of a user."""

from e0_lightning.training.constructor_tree import comparable_trees, make_self_contained


class Language:
    """Stand-in for a model that was built from files."""

    def settings(self):
        return {"config": {"hidden_size": 32}, "tokenizer": "{json}", "max_tokens": 48}


def tree(**language):
    return {
        "weights": "paligemma.ckpt",
        "metrics": {"error": {"class_path": "my_research.Error"}},
        "encoder": {
            "init_args": {
                "vision": {"name": "vit", "pretrained": True},
                "language": {"max_tokens": 48, **language},
            }
        },
    }


def test_a_self_contained_tree_equals_the_one_it_was_made_from():
    given = tree(name="folder/of/a/model")
    ours, theirs = comparable_trees(given, make_self_contained(given, Language()))
    assert ours == theirs
    assert given == tree(name="folder/of/a/model")


def test_other_differences_remain():
    given = tree(name="folder/of/a/model", max_tokens=64)
    ours, theirs = comparable_trees(given, make_self_contained(tree(name="a"), Language()))
    assert ours["encoder"]["init_args"]["language"] == {"max_tokens": 64}
    assert theirs["encoder"]["init_args"]["language"] == {"max_tokens": 48}


def test_a_configuration_given_in_full_is_compared():
    ours, theirs = comparable_trees(tree(config={"depth": 1}), tree(config={"depth": 2}))
    assert ours != theirs
