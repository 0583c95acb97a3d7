import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e0_lightning.actions.tokenizer import ActionTokenizer

ROUNDING = 2e-7
bins = st.integers(2, 8192)
values = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50).map(torch.tensor)


@given(values, bins)
def test_round_trip_errs_by_at_most_half_a_bin(x, num_bins):
    tokenizer = ActionTokenizer(num_bins)
    assert (tokenizer.decode(tokenizer.encode(x)) - x).abs().max() <= 1 / num_bins + ROUNDING


@given(values, bins)
def test_left_edges_are_at_most_a_bin_below(x, num_bins):
    tokenizer = ActionTokenizer(num_bins, decode_to="left_edge")
    error = x - tokenizer.decode(tokenizer.encode(x))
    assert error.min() >= -ROUNDING
    assert error.max() <= 2 / num_bins + ROUNDING


@pytest.mark.parametrize("num_bins", [2, 7, 256, 2048, 8192])
def test_every_token_survives_a_round_trip(num_bins):
    tokenizer = ActionTokenizer(num_bins)
    tokens = torch.arange(num_bins)
    assert tokenizer.encode(tokenizer.decode(tokens)).equal(tokens)


def test_values_out_of_range_saturate():
    tokenizer = ActionTokenizer(2048)
    tokens = tokenizer.encode(torch.tensor([-torch.inf, -3200.0, -1.0, 1.0, 5.0, torch.inf]))
    assert tokens.tolist() == [0, 0, 0, 2047, 2047, 2047]


def test_half_precision_values_get_the_token_of_their_value():
    tokenizer = ActionTokenizer(2048)
    half = (torch.rand(1000) * 2 - 1).bfloat16()
    assert tokenizer.encode(half).equal(tokenizer.encode(half.float()))


def test_expectation_is_the_mean_of_the_centers():
    tokenizer = ActionTokenizer(4)
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    expected = torch.tensor([-0.75 * 0.1 - 0.25 * 0.2 + 0.25 * 0.3 + 0.75 * 0.4])
    assert torch.allclose(tokenizer.expect(probabilities.log()), expected)


def test_local_expectation_does_not_average_modes():
    tokenizer = ActionTokenizer(100)
    probabilities = torch.zeros(1, 100)
    probabilities[0, 20], probabilities[0, 21], probabilities[0, 80] = 0.4, 0.2, 0.4
    local = tokenizer.expect(probabilities.log(), window=3)
    centers = tokenizer.decode(torch.tensor([20, 21]))
    assert torch.allclose(local, (0.4 * centers[0] + 0.2 * centers[1]) / 0.6)
    assert tokenizer.expect(probabilities.log()) > local + 0.3


@pytest.mark.parametrize("edge", [0, 49])
def test_window_stops_at_the_ends_of_the_grid(edge):
    tokenizer = ActionTokenizer(50)
    logits = torch.full((1, 50), -10.0)
    logits[0, edge] = 10.0
    local = tokenizer.expect(logits, window=5)
    assert torch.allclose(local, tokenizer.decode(torch.tensor([edge])), atol=1e-6)


def test_window_of_the_whole_grid_is_the_full_expectation():
    tokenizer = ActionTokenizer(64)
    logits = torch.randn(3, 2, 64)
    assert torch.allclose(tokenizer.expect(logits, window=64), tokenizer.expect(logits), atol=1e-6)


def test_logits_with_another_number_of_bins_are_refused():
    with pytest.raises(ValueError, match="expected 2048 bins, got 256"):
        ActionTokenizer(2048).expect(torch.zeros(1, 256))


@pytest.mark.parametrize("arguments", [{"num_bins": 1}, {"decode_to": "middle"}])
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ActionTokenizer(**arguments)


def test_read_outs_are_center_left_edge_and_expectations():
    tokenizer, logits = ActionTokenizer(50, decode_to="left_edge"), torch.randn(2, 3, 50)
    tokens = logits.argmax(dim=-1)

    def read(readout):
        return tokenizer.read_out(tokens, logits, readout, window=4)

    assert read("center").equal(ActionTokenizer(50).decode(tokens))
    assert read("left_edge").equal(tokenizer.decode(tokens))
    assert read("expectation").equal(tokenizer.expect(logits))
    assert read("local").equal(tokenizer.expect(logits, window=4))
    with pytest.raises(ValueError, match=r"readout: expected .* got 'mode'"):
        read("mode")


def test_center_and_offset_add_up_to_the_value():
    tokenizer, values = ActionTokenizer(50), torch.linspace(-1, 1, 333)
    offset = tokenizer.offset(values)
    assert offset.abs().max() <= 0.5 + 1e-4
    restored = tokenizer.decode(tokenizer.encode(values)) + offset * 2 / 50
    torch.testing.assert_close(restored, values, atol=1e-5, rtol=0)
    assert tokenizer.offset(torch.tensor([-3.0, 3.0])).tolist() == [-0.5, 0.5]
