"""Language model: any decoder of transformers, as keys and values of every layer."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    DynamicCache,
    PreTrainedTokenizerFast,
)
from transformers.modeling_layers import GradientCheckpointingLayer


class LanguageModel(nn.Module):
    """A decoder of transformers that attends bidirectionally over a prefix.

    Args:
        config: Configuration of a model from scratch, with its ``model_type``, e.g.
            ``{model_type: llama, hidden_size: 128, ...}``.
        name: Name or folder of a pretrained model, instead of ``config``.
        tokenizer: Name or folder of a tokenizer; ``byt5`` is byte-level and needs no download. The
            default is ``byt5`` with ``config``, the model's own with ``name``. Checkpoints contain
            the tokenizer itself here, as JSON.
        max_tokens: Maximum instruction length in tokens; a longer one is an error, not truncated.
        attention: Attention implementation of transformers, such as ``eager``; None is its default.

    Raises:
        ValueError: If neither or both of ``config`` and ``name`` are given.
    """

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        name: str | None = None,
        tokenizer: str | None = None,
        max_tokens: int = 128,
        attention: str | None = None,
    ) -> None:
        super().__init__()
        if (config is None) == (name is None):
            raise ValueError(
                "language: expected either config (a model from scratch) or name (a pretrained "
                f"one), got config={config!r}, name={name!r}."
            )
        self.tokenizer = _tokenizer(tokenizer or name or "byt5")
        implementation = {} if attention is None else {"attn_implementation": attention}
        if name is not None:
            # In float32 whatever the files contain, as weight averages and small steps need it.
            self.model = AutoModel.from_pretrained(
                name, dtype=torch.float32, trust_remote_code=False, **implementation
            ).train()
        else:
            settings = _config(dict(config or {}), len(self.tokenizer))
            self.model = AutoModel.from_config(settings, trust_remote_code=False, **implementation)
        for weight in _unused_weights(self.model):
            self.model.get_parameter(weight).requires_grad_(False)
        self.max_tokens, self.attention = max_tokens, attention
        self.cache_name = _cache_name(self.model)
        text = self.model.config.get_text_config()
        self.width: int = text.hidden_size
        self.depth: int = text.num_hidden_layers
        self.kv_heads: int = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        self.head_dim: int = (
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        rotary = getattr(text, "rope_parameters", None) or {}
        self.rope_theta: float | None = (
            rotary.get("rope_theta") if rotary.get("rope_type") == "default" else None
        )

    def embed(self, instruction: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokenize and embed instructions.

        Returns:
            Embeddings ``(B, T, width)`` and the mask ``(B, T)``, false at padding.

        Raises:
            ValueError: If an instruction is longer than ``max_tokens``.
        """
        encoded = self._tokenize(instruction)
        # Float where all are empty and have no special tokens.
        ids = encoded["input_ids"].long().to(device)
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded, encoded["attention_mask"].bool().to(device)

    def check_lengths(self, instructions: Sequence[str]) -> None:
        """Check the lengths of instructions.

        Raises:
            ValueError: If an instruction is longer than ``max_tokens``.
        """
        for instruction in instructions:
            self._tokenize([instruction])

    def forward(
        self, embeddings: Tensor, mask: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run the decoder over a prefix with bidirectional attention.

        Args:
            embeddings: ``(B, P, width)``.
            mask: ``(B, P)`` bool, false at padding, which no token attends to.

        Returns:
            Keys and values of each layer, ``(B, kv_heads, P, head_dim)``, differentiable.
        """
        lowest = torch.finfo(embeddings.dtype).min
        allowed = torch.zeros(mask.shape, dtype=embeddings.dtype, device=embeddings.device)
        allowed = allowed.masked_fill(~mask, lowest)[:, None, None, :]
        recorder: Any = _Recorder()
        self.model(
            inputs_embeds=embeddings,
            attention_mask=allowed.expand(-1, 1, mask.shape[1], -1),
            position_ids=mask.long().cumsum(dim=-1).sub(1).clamp(min=0),
            # False refers to a new cache; the given one is filled anyway.
            use_cache=False,
            **{self.cache_name: recorder},
        )
        keys, values = zip(*recorder.recorded.values(), strict=True)
        return keys, values

    def recompute(self) -> None:
        """Recompute activations in the backward pass (gradient checkpointing).

        Raises:
            ValueError: If the layers do not support it.
        """
        layers: list[Any] = [
            module
            for module in self.model.modules()
            if isinstance(module, GradientCheckpointingLayer)
        ]
        if not layers:
            raise ValueError(
                f"gradient_checkpointing: {type(self.model).__name__} does not support it. Turn it "
                "off or choose another decoder."
            )
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            # Allowed, as the recorder ignores the second computation.
            layer._can_checkpoint_with_cache = True

    def settings(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this model without its files or the hub."""
        is_bytes = isinstance(self.tokenizer, ByT5Tokenizer)
        return {
            "config": self.model.config.to_dict(),
            "tokenizer": "byt5" if is_bytes else _tokenizer_as_json(self.tokenizer),
            "max_tokens": self.max_tokens,
            "attention": self.attention,
        }

    def _tokenize(self, instruction: list[str]) -> Any:
        encoded = self.tokenizer(instruction, padding=True, return_tensors="pt")
        length = encoded["input_ids"].shape[1]
        if length > self.max_tokens:
            raise ValueError(
                f"language.max_tokens: expected at most {self.max_tokens} tokens, got {length} for "
                f"{max(instruction, key=len)!r}. Raise max_tokens or shorten the instruction."
            )
        return encoded


class _Recorder(DynamicCache):
    """Records keys and values of each layer once; recomputing a layer changes nothing.

    Built without the model's configuration, it keeps all tokens of sliding-window layers too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Record a layer's keys and values, and return them for its attention."""
        self.recorded.setdefault(layer_idx, (key_states, value_states))
        return key_states, value_states


def _cache_name(model: Any) -> str:
    """Name of a decoder's cache argument: ``past_key_values`` until transformers renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _unused_weights(model: Any) -> list[str]:
    """Names of weights that no key or value depends on: those after them in the last layer.

    They have no gradient, which distributed strategies would wait for.
    """
    # Policies may be built where gradients are disabled.
    with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
        copy = AutoModel.from_config(model.config, trust_remote_code=False)
        embedded = torch.zeros(1, 2, model.config.get_text_config().hidden_size)
        recorder: Any = _Recorder()
        copy(inputs_embeds=embedded, use_cache=False, **{_cache_name(copy): recorder})
        sum(part.sum() for pair in recorder.recorded.values() for part in pair).backward()
    vocabulary = copy.get_input_embeddings().weight
    weights = copy.named_parameters()
    return [name for name, weight in weights if weight.grad is None and weight is not vocabulary]


def _tokenizer(choice: str) -> Any:
    """Load a tokenizer by name, from a folder, or from the JSON of a checkpoint."""
    if choice == "byt5":
        return ByT5Tokenizer()
    if choice.startswith("{"):
        from tokenizers import Tokenizer

        settings = json.loads(choice)
        backend = Tokenizer.from_str(settings.pop("tokenizer"))
        return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(choice, trust_remote_code=False)
    except ValueError as error:
        raise ValueError(
            f"language.tokenizer: expected a tokenizer of transformers, got {choice!r} "
            f"({str(error).splitlines()[0]}). Code beside a tokenizer is never run."
        ) from error
    except OSError as error:
        raise ValueError(
            f"language.tokenizer: expected a folder or a name on the Hugging Face hub, got "
            f"{choice!r} ({str(error).splitlines()[0]}). Name a folder with its files; or, for a "
            "gated model, accept its terms on the hub and log in with `hf auth login`. To count "
            "parameters or measure speed, use `byt5`."
        ) from error
    if tokenizer.pad_token is None:
        # Padding is masked, so that any token serves.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _tokenizer_as_json(tokenizer: Any) -> str:
    """JSON from which :func:`_tokenizer` rebuilds the tokenizer."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    settings = {"tokenizer": tokenizer.backend_tokenizer.to_str()} | special
    return json.dumps(settings | {"padding_side": tokenizer.padding_side})


def _config(settings: dict[str, Any], vocabulary: int) -> Any:
    """A transformers configuration from plain values, with the tokenizer's vocabulary."""
    if "model_type" not in settings:
        raise ValueError(
            f"language.config: expected a model_type, got {sorted(settings)}. Name a decoder of "
            "transformers, e.g. llama, gemma, qwen3."
        )
    settings.setdefault("vocab_size", vocabulary)
    return AutoConfig.for_model(**settings)
