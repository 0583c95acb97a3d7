"""E0 with classifier-free guidance by the instruction."""

import pytest
import torch

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.policies.compilation import compile_networks
from tiny_policy import DIM, InMemoryDemos, act_seeded, quiet_trainer, ready_policy, tiny_settings

VARIANTS = {
    "token per dimension": {},
    "token per step": {"token_per": "step"},
    "self-conditioned": {"token_per": "step", "self_conditioning": True},
    "prefixes in training": {"max_action_prefix": 2},
}


def policy_of(scale, dropout=0.1, **changes):
    """An untrained policy whose expert reads the prefix; without guidance for None."""
    guidance = None if scale is None else {"dropout": dropout, "scale": scale}
    policy = ready_policy(tiny_settings(guidance=guidance, **changes))
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


@pytest.fixture(params=VARIANTS)
def changes(request):
    return VARIANTS[request.param]


def test_scale_1_is_the_policy_without_guidance_to_the_bit(changes, batch):
    expected = act_seeded(policy_of(None, **changes), batch)
    assert torch.equal(act_seeded(policy_of(1.0, **changes), batch), expected)


def test_scale_0_is_the_policy_with_the_empty_instruction(changes, batch):
    told = act_seeded(policy_of(None, **changes), {**batch, "instruction": [""] * 4})
    assert not torch.allclose(told, act_seeded(policy_of(None, **changes), batch), atol=1e-3)
    empty = act_seeded(policy_of(0.0, **changes), batch)
    torch.testing.assert_close(empty, told, rtol=0, atol=1e-4)


def test_guidance_of_one_step_is_exact(batch):
    sampler = {"class_path": "TweedieSampler", "init_args": {"num_steps": 1}}

    def logits(policy, observation):
        caught = []
        read_out = policy.tokenizer.read_out
        policy.tokenizer.read_out = lambda *args: caught.append(args[1]) or read_out(*args)
        act_seeded(policy, observation)
        return torch.cat(caught)

    given = logits(policy_of(None, sampler=sampler), batch)
    empty = logits(policy_of(None, sampler=sampler), {**batch, "instruction": [""] * 4})
    guided = logits(policy_of(2.5, sampler=sampler), batch)
    torch.testing.assert_close(guided, empty + 2.5 * (given - empty), rtol=1e-4, atol=1e-4)


def test_an_action_prefix_is_kept(changes, batch):
    prefix = [torch.full((n, DIM), 0.3) for n in (2, 0, 1, 0)]
    policy = policy_of(3.0, **changes)
    actions = act_seeded(policy, {**batch, "action_prefix": prefix})
    for row, given in zip(actions, prefix, strict=True):
        assert torch.equal(row[: len(given)], given)
    assert torch.equal(actions[[1, 3]], act_seeded(policy, batch)[[1, 3]])
    assert actions.isfinite().all()


def test_an_observation_acts_alike_in_any_batch(batch):
    policy = policy_of(2.0)
    one = {name: value for name, value in batch.items() if name not in ("actions", "valid")}
    one |= {"images": {"base": batch["images"]["base"][2:3]}, "state": batch["state"][2:3]}
    one["instruction"] = batch["instruction"][2:3]
    assert torch.equal(act_seeded(policy, one, seed=9)[0], act_seeded(policy, batch)[2])


def test_a_state_in_prompt_or_suffix_stays(batch):
    encoder = tiny_settings()["init_args"]["encoder"]
    prompt = {"template": "Task: {instruction}, State: {state};\nAction: "}
    for changes in ({"state_token": "suffix"}, {"state_token": None, "prompt": prompt}):
        policy = policy_of(0.0, encoder=encoder | changes)
        moved = {**batch, "state": batch["state"].flip(0)}
        assert not torch.allclose(act_seeded(policy, batch), act_seeded(policy, moved))


def test_traced_networks_act_alike(batch):
    torch._dynamo.reset()
    policy = policy_of(2.0)
    expected = act_seeded(policy, batch)
    compile_networks(policy, backend="eager")
    torch.testing.assert_close(act_seeded(policy, batch), expected, rtol=0, atol=1e-5)


def test_a_tokenizer_without_special_tokens_has_an_empty_instruction(batch):
    policy = policy_of(2.0)
    tokenizer = policy.encoder.language.tokenizer
    policy.encoder.language.tokenizer = lambda texts, **options: tokenizer(
        texts, add_special_tokens=False, **options
    )
    batch["instruction"] = [""] * 4
    assert policy.act(batch).isfinite().all()


def test_training_drops_instructions_and_validation_does_not(tmp_path):
    policy = ready_policy(tiny_settings(guidance={"dropout": 0.5})).train()
    given = {True: [], False: []}
    embed = policy.encoder.language.embed

    def record(sentences, device):
        given[policy.training].append(sentences)
        return embed(sentences, device)

    policy.encoder.language.embed = record
    for _ in range(2):
        quiet_trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(
            policy, InMemoryDemos()
        )
    runs = [given[True][:8], given[True][8:]]
    assert runs[0] == runs[1]  # by position in the run
    sentences = [sentence for batch in runs[0] for sentence in batch]
    assert 8 <= sentences.count("") <= 24  # of 32
    assert len({tuple(each) for each in runs[0]}) > 4
    assert not any("" in each for each in given[False])


def saved(policy, path):
    checkpoint = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return checkpoint


def test_a_checkpoint_keeps_its_guidance(batch, tmp_path):
    policy = policy_of(2.0)
    saved(policy, tmp_path / "last.ckpt")
    loaded = load_policy(tmp_path / "last.ckpt")
    assert (loaded.guidance.dropout, loaded.guidance.scale) == (0.1, 2.0)
    assert torch.equal(act_seeded(loaded, batch), act_seeded(policy, batch))


def test_guidance_of_weights_without_dropout_is_refused(tmp_path):
    checkpoint = saved(policy_of(None), tmp_path / "last.ckpt")
    policy_of(1.0).on_load_checkpoint(checkpoint)
    with pytest.raises(
        ValueError, match=r"guidance.scale: expected 1 .*dropping instructions, got 2"
    ):
        policy_of(2.0).on_load_checkpoint(checkpoint)


def test_a_prefix_without_its_pair_is_refused(batch):
    policy = policy_of(2.0)
    with pytest.raises(ValueError, match=r"prefix: expected paired=True, got False"):
        policy.sample(policy.encode(batch))
