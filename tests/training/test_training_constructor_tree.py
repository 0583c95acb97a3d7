"""What of two constructor trees is compared."""

from e0_lightning.training.hyperparameters import comparable, self_contained


class Language:
    """Stands in for a model that was built from files."""

    def settings(self):
        return {"config": {"hidden_size": 32}, "tokenizer": "{json}", "max_tokens": 48}


def tree(**language):
    return {
        "weights": "paligemma.ckpt",
        "encoder": {
            "init_args": {
                "vision": {"name": "vit", "pretrained": True},
                "language": {"max_tokens": 48, **language},
            }
        },
    }


def test_a_checkpoint_that_stands_alone_is_compared_as_it_was_asked_for():
    asked = tree(name="folder/of/a/model")
    ours, theirs = comparable(asked, self_contained(asked, Language()))
    assert ours == theirs
    assert asked == tree(name="folder/of/a/model")


def test_what_else_differs_is_still_told():
    other = tree(name="folder/of/a/model", max_tokens=64)
    ours, theirs = comparable(other, self_contained(tree(name="a"), Language()))
    assert ours["encoder"]["init_args"]["language"] == {"max_tokens": 64}
    assert theirs["encoder"]["init_args"]["language"] == {"max_tokens": 48}


def test_a_configuration_written_out_is_compared():
    ours, theirs = comparable(tree(config={"depth": 1}), tree(config={"depth": 2}))
    assert ours != theirs
