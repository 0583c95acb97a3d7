import pytest
import torch

from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.prefix_encoder import PrefixEncoder
from e0_lightning.networks.prompt import Prompt
from e0_lightning.networks.vision import VisionEncoder
from e0_lightning.types import PolicySpec

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


SPEC = PolicySpec(views={"cam": 32}, state={"qpos": 1, "gripper": 2})


def encoder(binarize=None, crop=None):
    torch.manual_seed(0)
    vision = VisionEncoder("convnext_atto", stage=1, size=32, crop=crop)
    return PrefixEncoder(vision, LanguageModel(config=LLAMA), 3, binarize).eval()


@torch.no_grad()
def encode(encoder, *state):
    observation = {
        "images": {"cam": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)},
        "instruction": ["push"],
        "state": torch.tensor([state]),
    }
    return encoder(observation).keys[-1]


@torch.no_grad()
def test_without_an_image_encoder_the_prefix_is_instruction_and_state():
    language = LanguageModel(config=LLAMA)
    blind = PrefixEncoder(None, language, 3).resolve_state(PolicySpec(state={"qpos": 3}))
    observation = {"images": {}, "instruction": ["push"], "state": torch.zeros(1, 3)}
    words = language.embed(["push"], torch.device("cpu"))[0].shape[1]
    assert blind(observation).mask.shape == (1, words + 1)
    assert {name.split(".")[0] for name, _ in blind.named_parameters()} == {"language", "state"}


def test_views_need_an_image_encoder():
    blind = PrefixEncoder(None, LanguageModel(config=LLAMA), 3)
    with pytest.raises(ValueError, match=r"encoder for the views \['cam'\], got none"):
        blind.resolve_state(SPEC)


def test_of_a_binarized_dimension_only_the_sign_matters():
    binarized = encoder({"gripper": [0]}).resolve_state(SPEC)
    closed = encode(binarized, 0.3, -1.0, 0.5)
    assert torch.equal(encode(binarized, 0.3, -0.1, 0.5), closed)
    assert not torch.allclose(encode(binarized, 0.3, 0.1, 0.5), closed)
    assert not torch.allclose(encode(binarized, 0.3, -1.0, 0.6), closed)


def test_the_ends_of_the_range_are_unchanged_by_binarization():
    torch.testing.assert_close(
        encode(encoder({"gripper": [0]}).resolve_state(SPEC), 0.3, 1.0, 0.5),
        encode(encoder(), 0.3, 1.0, 0.5),
    )


def test_the_state_is_not_binarized_in_training():
    torch.testing.assert_close(
        encode(encoder({"gripper": [0]}).train(), 0.3, -0.1, 0.5),
        encode(encoder(), 0.3, -0.1, 0.5),
    )


def test_binarization_does_not_modify_the_observation():
    state = torch.tensor([[0.3, -0.1, 0.5]])
    observation = {
        "images": {"cam": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)},
        "instruction": ["push"],
        "state": state,
    }
    encoder({"gripper": [0]}).resolve_state(SPEC)(observation)
    assert state.tolist() == torch.tensor([[0.3, -0.1, 0.5]]).tolist()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"hand": [0]}, r"expected state parts among \['qpos', 'gripper'\], got 'hand'"),
        ({"gripper": [2]}, r"expected dimensions of 'gripper' from 0 to 1, got \[2\]"),
    ],
)
def test_unknown_state_parts_and_dimensions_are_refused(parts, message):
    with pytest.raises(ValueError, match=f"encoder.binarize_state_at_inference: {message}"):
        encoder(parts).resolve_state(SPEC)


def test_binarization_before_the_state_is_resolved_is_refused():
    with pytest.raises(ValueError, match=r"Call encoder.resolve_state\(spec\)"):
        encode(encoder({"gripper": [0]}), 0.3, -0.1, 0.5)


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ({"wrist": [0, 0, 16]}, r"vision.crop: expected views among \['cam'\], got 'wrist'"),
        ({"cam": [20, 0, 16]}, r"vision.crop\['cam'\]: expected .* inside .* of 32 x 32 pixels"),
    ],
)
def test_crops_that_do_not_fit_the_views_are_refused(crop, message):
    with pytest.raises(ValueError, match=message):
        encoder(crop=crop).resolve_state(SPEC)


def test_a_missing_number_of_state_dimensions_is_refused_by_name():
    vision = VisionEncoder("convnext_atto", stage=1, size=32)
    with pytest.raises(ValueError, match=r"encoder.state_dim: expected .*, got None"):
        PrefixEncoder(vision, LanguageModel(config=LLAMA))


def stateless(state_token, template="{instruction}", state_dim=3, **changes):
    """An encoder of instruction and state alone."""
    torch.manual_seed(0)
    language = LanguageModel(config=LLAMA, **changes)
    prompt = Prompt(template)
    network = PrefixEncoder(None, language, state_dim, state_token=state_token, prompt=prompt)
    return network.eval()


@torch.no_grad()
def test_a_state_of_the_suffix_is_left_to_the_expert():
    network, state = stateless("suffix"), torch.tensor([[0.3, -0.1, 0.5]])
    prefix = network({"images": {}, "instruction": ["push"], "state": state})
    assert prefix.mask.shape[1] == len(network.language.tokenizer("push")["input_ids"])
    assert torch.equal(prefix.state, state)
    assert network.suffix_state_dim == 3
    assert network.state is None


@torch.no_grad()
def test_a_state_of_the_prompt_is_text():
    network, alone = stateless(None, "{instruction}: {state}"), stateless("suffix")
    prefix = network({"images": {}, "instruction": ["push"], "state": torch.zeros(1, 3)})
    text = {"images": {}, "instruction": ["push: 128 128 128"], "state": torch.zeros(1, 3)}
    assert torch.equal(prefix.keys[-1], alone(text).keys[-1])
    assert prefix.state is None
    assert network.suffix_state_dim == 0


def test_a_state_that_no_network_reads_is_refused():
    with pytest.raises(ValueError, match=r"state_token: expected prefix or suffix, got null"):
        stateless(None)
    stateless(None, state_dim=0)


@pytest.mark.parametrize("arguments", [("suffix",), (None, "{instruction} {state}")])
def test_earlier_states_need_a_token_in_the_prefix(arguments):
    spec = PolicySpec(state={"qpos": 3}, n_obs_steps=2)
    with pytest.raises(ValueError, match="expected prefix for n_obs_steps 2"):
        stateless(*arguments).resolve_state(spec)


def test_the_state_counts_for_the_length_of_a_prompt():
    stateless("suffix", max_tokens=10).check_lengths(["push"])
    with pytest.raises(ValueError, match="expected at most 10 tokens"):
        stateless(None, "{instruction} {state}", max_tokens=10).check_lengths(["push"])


def observed(steps=(10, 20, 30)):
    """Grey images and states of three steps, the last of which is the current one."""
    images = torch.stack([torch.full((3, 32, 32), step, dtype=torch.uint8) for step in steps])
    states = torch.tensor(steps)[:, None].expand(-1, 3) / 100
    return {
        "images": {"cam": images[-1:]},
        "instruction": ["push"],
        "state": states[-1:],
        "history": {"images": {"cam": images[None, :-1]}, "state": states[None, :-1]},
    }


def current(observation):
    """The observation without its history."""
    return {name: value for name, value in observation.items() if name != "history"}


@torch.no_grad()
def test_earlier_steps_are_further_tokens():
    network, given = encoder(), observed()
    lengths = [network(each).mask.sum() for each in (current(given), given)]
    assert lengths[1] - lengths[0] == 2 * (16 + 1)
    assert not network(given).keys[-1].allclose(network(observed((20, 10, 30))).keys[-1])


@torch.no_grad()
def test_the_age_tells_earlier_steps_with_equal_images_apart():
    network = encoder()
    tokens = network._past_images(observed((10, 10, 10)))["cam"].unflatten(1, (2, -1))
    assert (tokens[:, 0] - tokens[:, 1]).norm(dim=-1).min() > 0.1


@torch.no_grad()
def test_earlier_states_are_binarized_too():
    given, changed = observed(), observed()
    changed["history"]["state"] = given["history"]["state"] * torch.tensor([1.0, 0.5, 1.0])
    binarized = encoder({"gripper": [0]}).resolve_state(SPEC)
    assert binarized(given).keys[-1].equal(binarized(changed).keys[-1])
    assert not encoder()(given).keys[-1].equal(encoder()(changed).keys[-1])


@torch.no_grad()
def test_a_masked_view_is_as_good_as_none():
    network, given = encoder(), observed()
    noise = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    past = torch.randint(256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    history = given["history"]
    more = {
        **given,
        "images": {"wrist": noise, **given["images"]},
        "history": {**history, "images": {"wrist": past, **history["images"]}},
        "image_mask": {"wrist": torch.tensor([False])},
    }
    prefix, expected = network(more), network(given)
    assert prefix.lengths.equal(expected.lengths)
    kept = prefix.mask[0]
    torch.testing.assert_close(prefix.keys[-1][:, :, kept], expected.keys[-1], atol=1e-5, rtol=0)
    del more["image_mask"]
    assert network(more).mask.all()
