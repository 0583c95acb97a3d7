"""What E0 sees beside the noise: the prefix, an earlier estimate, and the steps under way."""

import pytest
import torch
import torch.nn.functional as F

from e0_lightning.actions.action_prefix import read_action_prefix
from e0_lightning.networks.action_expert import sine_cosine
from e0_lightning.networks.attention import rotary, rotate

from .conftest import DIM, HORIZON, make_batch, ready_policy, tiny_settings


@pytest.mark.parametrize(
    "changes",
    [{}, {"token_per": "step"}, {"sampler": {"class_path": "CategoricalSampler"}}],
    ids=str,
)
def test_a_prefix_computed_once_acts_as_one_computed_at_every_step(changes, batch, monkeypatch):
    policy = ready_policy(tiny_settings(**changes))
    encoded, denoise = [], policy.denoise
    policy.encoder.register_forward_hook(lambda *_: encoded.append(1))

    def encode_anew(x_tau, tau, prefix, *seen):
        return denoise(x_tau, tau, policy.prefix(batch), *seen)

    torch.manual_seed(2)
    once = policy.sample_actions(batch)
    assert len(encoded) == 1
    monkeypatch.setattr(policy, "denoise", encode_anew)
    torch.manual_seed(2)
    anew = policy.sample_actions(batch)
    assert len(encoded) == 2 + policy.sampler.num_steps
    assert torch.equal(once.actions, anew.actions)
    assert torch.equal(once.uncertainty, anew.uncertainty)


def pass_jointly(policy, embeddings, mask, tokens, tau):
    """Prefix and tokens through one attention a layer, in which the prefix sees only itself.

    Returns the prefix's keys and values of each layer, and the refined tokens.
    """
    language, expert = policy.encoder.language, policy.expert
    parts = past, _ = [embeddings.shape[1], tokens.shape[1]]
    present = F.pad(mask, (0, parts[1]), value=True)
    block = present[:, None, None].repeat(1, 1, sum(parts), 1)
    block[:, :, :past, past:] = False
    turn = rotary(present.cumsum(dim=1) - 1, language.head_dim, language.rope_theta)
    condition, recorded = expert.time(sine_cosine(tau, expert.width)), []
    for own, other in zip(language.model.layers, expert.layers, strict=True):
        normed, gate = other.attention_norm(tokens, condition)
        streams = (own.self_attn, own.input_layernorm(embeddings)), (other.attention, normed)
        query, key, value = (
            torch.cat([getattr(attention, name)(x) for attention, x in streams], dim=1)
            .unflatten(2, (-1, language.head_dim))
            .transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        query, key = rotate(query, *turn), rotate(key, *turn)
        recorded.append((key[:, :, :past], value[:, :, :past]))
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=block)
        seen, told = heard.transpose(1, 2).flatten(2).split(parts, dim=1)
        embeddings = embeddings + own.self_attn.o_proj(seen)
        embeddings = embeddings + own.mlp(own.post_attention_layernorm(embeddings))
        tokens = tokens + gate * other.attention.o_proj(told)
        normed, gate = other.mlp_norm(tokens, condition)
        tokens = tokens + gate * other.mlp(normed)
    return recorded, expert.norm(tokens, condition)[0]


@torch.no_grad()
def test_a_prefix_beside_the_tokens_is_the_prefix_alone(batch):
    policy, given = ready_policy(tiny_settings()), []
    for parameter in policy.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # an untrained expert does not look at tau
    policy.encoder.language.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    prefix = policy.prefix(batch)
    assert not prefix.mask.all()  # instructions differ in length
    for _ in range(2):
        tokens, tau = torch.randn(4, HORIZON * DIM, policy.expert.width), torch.rand(4)
        recorded, refined = pass_jointly(policy, *given, tokens, tau)
        alone = zip(prefix.keys, prefix.values, strict=True)
        torch.testing.assert_close(recorded, list(alone))
        torch.testing.assert_close(refined, policy.expert(tokens, tau, prefix))


def both(**changes):
    return (ready_policy(tiny_settings(**changes, self_conditioning=on)) for on in (False, True))


def test_at_first_an_estimate_changes_nothing(batch):
    plain, conditioned = both()
    for act in (plain.act, conditioned.act):
        torch.manual_seed(2)
        act.__self__.chunk = act(batch)
    assert torch.equal(plain.chunk, conditioned.chunk)
    assert "estimate.weight" in conditioned.state_dict()
    assert "estimate.weight" not in plain.state_dict()


def test_once_learnt_each_step_sees_what_the_last_one_said(batch):
    _, policy = both(sampler={"init_args": {"num_steps": 3}, "class_path": "TweedieSampler"})
    torch.nn.init.normal_(policy.estimate.weight)
    given, said, denoise = [], [], policy.denoise

    def spied(x_tau, tau, prefix, estimate, known):
        given.append(estimate)
        said.append(denoise(x_tau, tau, prefix, estimate, known))
        return said[-1]

    policy.denoise = spied
    policy.act(batch)
    assert given[0] is None
    assert given[1:] == said[:2]
    x_tau, tau, prefix = torch.randn(4, 12, 32), torch.full((4,), 0.5), policy.prefix(batch)
    assert not torch.equal(denoise(x_tau, tau, prefix), denoise(x_tau, tau, prefix, said[0]))


def test_half_of_the_samples_see_what_a_first_pass_says_and_it_gets_no_gradient(batch):
    _, policy = both()
    passes, seen = [], []
    policy.expert.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    policy.estimate.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    for seed in range(20):
        torch.manual_seed(seed)
        policy._losses(batch)
    assert passes == [False, True] * 20
    assert not any(first.any() for first in seen[::2])
    rows = torch.cat(seen[1::2]).flatten(1).any(dim=1)
    assert 25 <= rows.sum() <= 55


def two_ways():
    """One observation and two chunks from it: all low, or all high."""
    batch = make_batch(size=1)
    batch = {name: value * 32 for name, value in batch.items() if name == "instruction"} | {
        "images": {"base": batch["images"]["base"].expand(32, -1, -1, -1)},
        "state": batch["state"].expand(32, -1),
        "valid": batch["valid"].expand(32, -1),
    }
    way = torch.where(torch.arange(32) % 2 == 0, -0.5, 0.5)
    return batch | {"actions": way[:, None, None].expand(32, HORIZON, DIM)}


@pytest.mark.parametrize("token_per", ["step", "dimension"])
def test_a_chunk_goes_on_as_its_committed_steps_began(token_per):
    policy = ready_policy(tiny_settings(action_prefix=2, token_per=token_per))
    batch, optimizer = two_ways(), torch.optim.AdamW(policy.parameters(), lr=3e-3)
    policy.train()
    for _ in range(150):
        optimizer.zero_grad()
        sum(policy.losses(batch, policy.prefix(batch)).values()).backward()
        optimizer.step()
    policy.eval()
    given = {name: batch[name] for name in ("images", "instruction", "state")}
    for way in (-0.5, 0.5):
        begun = policy.actions.undo(torch.full((32, HORIZON, DIM), way), batch["state"])[:, :1]
        chunk = policy.act(given | {"action_prefix": list(begun)})
        assert torch.equal(chunk[:, :1], begun)
        rest = policy.actions.normalize(chunk, batch["state"])[:, 1:]
        assert (rest.sign() == torch.tensor(way).sign()).float().mean() > 0.95


def test_padding_is_told_in_training_as_little_as_in_acting(batch):
    actions = tiny_settings()["init_args"]["actions"] | {"model_dim": 5}
    policy = ready_policy(tiny_settings(action_prefix=HORIZON - 1, actions=actions))
    shown = policy._reveal(torch.ones(64, policy.tokens, dtype=torch.int64)).view(64, HORIZON, 5)
    action_prefix = read_action_prefix(
        {**batch, "action_prefix": [*batch["actions"][:, :2]]}, policy.actions
    )
    acted = action_prefix.tokens(policy.tokenizer).view(-1, HORIZON, 5)
    for known in (shown, acted):
        assert (known[:, 0, :3] >= 0).any()
        assert (known[..., 3:] == -1).all()


def test_committed_steps_are_fewer_than_a_chunk_has():
    with pytest.raises(ValueError, match="action_prefix is 4, the horizon 4"):
        ready_policy(tiny_settings(action_prefix=HORIZON))
