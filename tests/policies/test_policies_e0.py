"""E0's inputs beside the noise: the prefix, an earlier estimate, and the action prefix."""

import pytest
import torch
import torch.nn.functional as F

from e0_lightning.actions.action_prefix import read_action_prefix
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.networks.attention import rotary, rotate
from e0_lightning.networks.positions import sine_cosine
from e0_lightning.random import sample_uniform
from tiny_policy import (
    ACTIONS,
    DIM,
    HORIZON,
    act_seeded,
    make_batch,
    ready_policy,
    seeded_step,
    tiny_settings,
)


@pytest.mark.parametrize(
    "changes",
    [{}, {"token_per": "step"}, {"sampler": {"class_path": "CategoricalSampler"}}],
    ids=str,
)
def test_a_prefix_encoded_once_equals_one_encoded_at_every_step(changes, batch, monkeypatch):
    policy = ready_policy(tiny_settings(**changes))
    encoded, denoise = [], policy.denoise
    policy.encoder.register_forward_hook(lambda *_: encoded.append(1))

    def denoise_with_new_prefix(x_tau, tau, prefix, *rest):
        return denoise(x_tau, tau, policy.encode(batch), *rest)

    with seeded_step(policy):
        once = policy.sample_actions(batch)
    assert len(encoded) == 1
    monkeypatch.setattr(policy, "denoise", denoise_with_new_prefix)
    with seeded_step(policy):
        anew = policy.sample_actions(batch)
    assert len(encoded) == 2 + policy.sampler.num_steps
    assert torch.equal(once.actions, anew.actions)
    assert torch.equal(once.uncertainty, anew.uncertainty)


def pass_jointly(policy, embeddings, mask, tokens, tau):
    """Prefix and tokens through one attention per layer; the prefix attends to itself only.

    Returns the prefix's keys and values of each layer, and the refined tokens.
    """
    language, expert = policy.encoder.language, policy.expert
    parts = past, _ = [embeddings.shape[1], tokens.shape[1]]
    present = F.pad(mask, (0, parts[1]), value=True)
    block = present[:, None, None].repeat(1, 1, sum(parts), 1)
    block[:, :, :past, past:] = False
    rotation = rotary(present.cumsum(dim=1) - 1, language.head_dim, language.rope_theta)
    condition, recorded = expert.time(sine_cosine(tau, expert.width)), []
    for own, other in zip(language.model.layers, expert.layers, strict=True):
        modulation = other.attention_norm.modulate(condition)
        normed, gate = other.attention_norm(tokens, modulation)
        streams = (own.self_attn, own.input_layernorm(embeddings)), (other.attention, normed)
        query, key, value = (
            torch.cat([getattr(attention, name)(x) for attention, x in streams], dim=1)
            .unflatten(2, (-1, language.head_dim))
            .transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        query, key = rotate(query, *rotation), rotate(key, *rotation)
        recorded.append((key[:, :, :past], value[:, :, :past]))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=block)
        of_prefix, of_tokens = mixed.transpose(1, 2).flatten(2).split(parts, dim=1)
        embeddings = embeddings + own.self_attn.o_proj(of_prefix)
        embeddings = embeddings + own.mlp(own.post_attention_layernorm(embeddings))
        tokens = tokens + gate * other.attention.o_proj(of_tokens)
        normed, gate = other.mlp_norm(tokens, other.mlp_norm.modulate(condition))
        tokens = tokens + gate * other.mlp(normed)
    return recorded, expert.norm(tokens, expert.norm.modulate(condition))[0]


@torch.no_grad()
def test_the_cached_prefix_equals_joint_attention_over_prefix_and_tokens(batch):
    policy, inputs = ready_policy(tiny_settings()), []
    for parameter in policy.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # an untrained expert ignores tau
    policy.encoder.language.register_forward_pre_hook(lambda _, args: inputs.extend(args))
    prefix = policy.encode(batch)
    assert not prefix.mask.all()  # instructions differ in length
    for _ in range(2):
        tokens, tau = torch.randn(4, HORIZON * DIM, policy.expert.width), torch.rand(4)
        recorded, refined = pass_jointly(policy, *inputs, tokens, tau)
        alone = zip(prefix.keys, prefix.values, strict=True)
        torch.testing.assert_close(recorded, list(alone))
        torch.testing.assert_close(refined, policy.expert(tokens, prefix, tau))


def both(**changes):
    """The same policy without and with self-conditioning."""
    plain, conditioned = (
        ready_policy(tiny_settings(**changes, self_conditioning=on)) for on in (False, True)
    )
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    return plain, conditioned


def test_an_estimate_has_no_effect_at_initialization(batch):
    plain, conditioned = both()
    assert torch.equal(act_seeded(plain, batch), act_seeded(conditioned, batch))
    added = set(conditioned.state_dict()) - set(plain.state_dict())
    assert added == {f"projection.embedding.estimate.{name}" for name in ("weight", "bias")}


def test_each_sampling_step_gets_the_estimate_of_the_step_before(batch):
    sampler = {"class_path": "TweedieSampler", "init_args": {"num_steps": 3}}
    _, policy = both(sampler=sampler)
    torch.nn.init.normal_(policy.projection.embedding.estimate.weight)
    inputs, outputs, denoise = [], [], policy.denoise

    def record(x_tau, tau, prefix, estimate, prefix_tokens):
        inputs.append(estimate)
        outputs.append(denoise(x_tau, tau, prefix, estimate, prefix_tokens))
        return outputs[-1]

    policy.denoise = record
    policy.act(batch)
    assert inputs[0] is None
    assert inputs[1:] == outputs[:2]
    x_tau, tau, prefix = torch.randn(4, 12, 32), torch.full((4,), 0.5), policy.encode(batch)
    assert not torch.equal(denoise(x_tau, tau, prefix), denoise(x_tau, tau, prefix, outputs[0]))


def test_half_of_the_training_samples_get_an_estimate_without_gradient(batch):
    _, policy = both()
    passes, inputs = [], []
    policy.expert.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    policy.projection.embedding.estimate.register_forward_hook(
        lambda _, args, out: inputs.append(args[0])
    )
    for seed in range(20):
        with seeded_step(policy, seed):
            policy.compute_losses(batch)
    assert passes == [False, True] * 20
    assert not any(first.any() for first in inputs[::2])
    rows = torch.cat(inputs[1::2]).flatten(1).any(dim=1)
    assert 25 <= rows.sum() <= 55


def two_modes():
    """One observation, and two chunks from it: all low, or all high."""
    batch = make_batch(size=1)
    mode = torch.where(torch.arange(32) % 2 == 0, -0.5, 0.5)
    return {
        "instruction": batch["instruction"] * 32,
        "images": {"base": batch["images"]["base"].expand(32, -1, -1, -1)},
        "state": batch["state"].expand(32, -1),
        "valid": batch["valid"].expand(32, -1),
        "actions": mode[:, None, None].expand(32, HORIZON, DIM),
    }


@pytest.mark.parametrize("token_per", ["step", "dimension"])
def test_a_chunk_continues_the_mode_of_its_prefix(token_per):
    policy = ready_policy(tiny_settings(max_action_prefix=2, token_per=token_per))
    batch, optimizer = two_modes(), torch.optim.AdamW(policy.parameters(), lr=3e-3)
    policy.train()
    for step in range(150):
        optimizer.zero_grad()
        with seeded_step(policy, step):
            sum(policy.losses(batch, policy.encode(batch)).values()).backward()
        optimizer.step()
    policy.eval()
    observation = {name: batch[name] for name in ("images", "instruction", "state")}
    for mode in (-0.5, 0.5):
        chunk = torch.full((32, HORIZON, DIM), mode)
        prefix = policy.actions.undo(chunk, batch["state"])[:, :1]
        actions = policy.act(observation | {"action_prefix": list(prefix)})
        assert torch.equal(actions[:, :1], prefix)
        rest = policy.actions.normalize(actions, batch["state"])[:, 1:]
        assert (rest.sign() == torch.tensor(mode).sign()).float().mean() > 0.95


def test_padding_is_never_part_of_a_prefix_in_training_or_at_inference(batch):
    actions = ACTIONS | {"model_dim": 5}
    policy = ready_policy(tiny_settings(max_action_prefix=HORIZON - 1, actions=actions))
    tokens = torch.ones(64, policy.num_tokens, dtype=torch.int64)
    trained = policy._sample_action_prefix(tokens).view(64, HORIZON, 5)
    prefix = read_action_prefix(
        {**batch, "action_prefix": [*batch["actions"][:, :2]]}, policy.actions
    )
    at_inference = prefix.tokens(policy.tokenizer).view(-1, HORIZON, 5)
    for prefix_tokens in (trained, at_inference):
        assert (prefix_tokens[:, 0, :3] >= 0).any()
        assert (prefix_tokens[..., 3:] == -1).all()


def test_a_prefix_as_long_as_the_chunk_is_refused():
    with pytest.raises(ValueError, match=r"max_action_prefix: expected 0 to 3 steps.*got 4"):
        ready_policy(tiny_settings(max_action_prefix=HORIZON))


class UniformNoise(OneHotDiffusion):
    """Noise of a researcher: uniform with the variance of a standard normal."""

    def prior(self, shape, generator=None, device=None):
        uniform = sample_uniform((*shape, self.num_bins), generator, device)
        return (uniform - 0.5) * 12**0.5


def test_sampling_starts_from_the_prior_of_the_process(batch, monkeypatch):
    process = {"class_path": f"{__name__}.UniformNoise", "init_args": {"num_bins": 32}}
    policy = ready_policy(tiny_settings(process=process))
    inputs, denoise = [], policy.denoise
    monkeypatch.setattr(policy, "denoise", lambda x, *rest: inputs.append(x) or denoise(x, *rest))
    assert policy.act(batch).isfinite().all()
    assert inputs[0].abs().max() <= 3**0.5


def test_noise_draws_share_one_encoded_observation(batch, monkeypatch):
    policy = ready_policy(tiny_settings(noise_draws=3))
    encoded, drawn, corrupt = [], [], policy.process.corrupt
    policy.encoder.register_forward_hook(lambda *_: encoded.append(1))

    def record(tokens, tau, generator, valid):
        drawn.append((tokens, tau, corrupt(tokens, tau, generator, valid), valid))
        return drawn[-1][2]

    monkeypatch.setattr(policy.process, "corrupt", record)
    with seeded_step(policy):
        loss = policy.compute_losses(batch)["cross_entropy"]
    assert len(encoded) == 1
    tokens, taus, noisy, valid = (each.chunk(3) for each in drawn[0])
    assert len(torch.cat(taus).unique()) == 3 * len(batch["actions"])
    alone = [
        policy.process.loss(policy.denoise(x_tau, tau, policy.encode(batch)), chunk, mask)
        for chunk, tau, x_tau, mask in zip(tokens, taus, noisy, valid, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


def test_wide_codes_are_trained_without_noise_on_every_bin(batch, monkeypatch):
    process = {"num_bins": 32, "code_sigma": 5.0, "matched_filter": True}
    policy = ready_policy(tiny_settings(process=process, token_per="step"))
    monkeypatch.setattr(policy.process, "prior", None)  # not called
    sum(policy.compute_losses(batch).values()).backward()
    assert policy.projection.embedding.weight.grad.abs().sum() > 0
