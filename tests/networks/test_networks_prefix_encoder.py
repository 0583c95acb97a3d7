import pytest
import torch

from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.prefix_encoder import PrefixEncoder
from e0_lightning.networks.vision import VisionEncoder

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def encoder(state_dim=3, binarize_state_at_inference=None):
    torch.manual_seed(0)
    vision = VisionEncoder("convnext_atto", stage=1, side=32)
    return PrefixEncoder(
        vision, LanguageModel(config=LLAMA), state_dim, binarize_state_at_inference
    ).eval()


@torch.no_grad()
def encode(encoder, *state):
    observation = {
        "images": {"cam": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)},
        "instruction": ["push"],
        "state": torch.tensor([state]),
    }
    return encoder(observation).keys[-1]


def test_of_a_switch_no_more_is_read_than_its_side():
    switched = encoder(binarize_state_at_inference=[1])
    closed = encode(switched, 0.3, -1.0, 0.5)
    assert torch.equal(encode(switched, 0.3, -0.1, 0.5), closed)
    assert not torch.allclose(encode(switched, 0.3, 0.1, 0.5), closed)
    assert not torch.allclose(encode(switched, 0.3, -1.0, 0.6), closed)


def test_a_switch_at_the_end_of_its_range_is_read_as_it_is():
    torch.testing.assert_close(
        encode(encoder(binarize_state_at_inference=[1]), 0.3, 1.0, 0.5),
        encode(encoder(), 0.3, 1.0, 0.5),
    )


def test_in_training_a_switch_is_read_as_it_is():
    torch.testing.assert_close(
        encode(encoder(binarize_state_at_inference=[1]).train(), 0.3, -0.1, 0.5),
        encode(encoder(), 0.3, -0.1, 0.5),
    )


def test_reading_switches_leaves_the_state_as_it_was():
    state = torch.tensor([[0.3, -0.1, 0.5]])
    observation = {
        "images": {"cam": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)},
        "instruction": ["push"],
        "state": state,
    }
    encoder(binarize_state_at_inference=[1])(observation)
    assert state.tolist() == torch.tensor([[0.3, -0.1, 0.5]]).tolist()


@pytest.mark.parametrize("binarize_state_at_inference", [[3], [-1], [0, 5]])
def test_a_switch_that_is_no_dimension_of_the_state_is_refused(binarize_state_at_inference):
    with pytest.raises(
        ValueError,
        match=r"binarize_state_at_inference: found \[.*the state has 3 dimensions\. Name",
    ):
        encoder(binarize_state_at_inference=binarize_state_at_inference)
