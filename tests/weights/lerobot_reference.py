"""Writes what lerobot's π0 and π0.5 compute with small random weights, for the tests.

Run in an environment of its own, with lerobot 0.6.1 and transformers 5.5:
``python tests/weights/lerobot_reference.py``. Only the sizes of the networks are replaced.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.processor_pi0 import Pi0NewLineProcessor
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot.policies.pi_gemma import (
    PaliGemmaForConditionalGenerationWithPiGemma,
    PiGemmaForCausalLM,
)
from lerobot.processor import TransitionKey
from lerobot_tensors import (
    ACTIONS,
    CHUNK,
    EXPERT_MLP,
    EXPERT_WIDTH,
    HEAD_DIM,
    HEADS,
    INSTRUCTIONS,
    LAYERS,
    MAX_ACTIONS,
    MAX_STATE,
    MLP,
    PATCH,
    SIDE,
    STATE,
    VIEWS,
    VISION_WIDTH,
    VOCABULARY,
    WIDTH,
    byt5_tokens,
    images,
    noise,
    random_tensor,
    state,
)
from transformers import GemmaConfig, PaliGemmaConfig

TIME = 0.37


def gemma(width, mlp, adaptive):
    return GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=HEAD_DIM,
        hidden_activation="gelu_pytorch_tanh",
        use_adarms=adaptive,
        adarms_cond_dim=width if adaptive else None,
    )


def tiny_init(self, vlm_config, action_expert_config, use_adarms, **settings):
    """Constructor of PaliGemmaWithExpertModel with small sizes."""
    torch.nn.Module.__init__(self)
    self.freeze_vision_encoder = self.train_expert_only = False
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": WIDTH,
        "projector_hidden_act": "gelu_fast",
        "vision_use_head": False,
    }
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=gemma(WIDTH, MLP, adaptive=False).to_dict(),
        image_token_index=VOCABULARY,
        projection_dim=WIDTH,
    )
    self.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=config)
    expert = gemma(EXPERT_WIDTH, EXPERT_MLP, adaptive=use_adarms[1])
    self.gemma_expert = PiGemmaForCausalLM(config=expert)
    self.gemma_expert.model.embed_tokens = None


def build(modeling, config_class, policy_class):
    modeling.PaliGemmaWithExpertModel.__init__ = tiny_init
    modeling.get_gemma_config = lambda variant: modeling.GemmaConfig(
        EXPERT_WIDTH, LAYERS, EXPERT_MLP, HEADS, 1, HEAD_DIM
    )
    cameras = {f"observation.images.{view}": (3, SIDE, SIDE) for view in (*VIEWS, "absent")}
    features = {name: PolicyFeature(FeatureType.VISUAL, shape) for name, shape in cameras.items()}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    config = config_class(
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        max_state_dim=MAX_STATE,
        max_action_dim=MAX_ACTIONS,
        image_resolution=(SIDE, SIDE),
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
        device="cpu",
    )
    policy = policy_class(config).eval()
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            tensor.copy_(torch.from_numpy(random_tensor(name, tuple(tensor.shape))))
    return policy


def prompts_of_pi0():
    return Pi0NewLineProcessor().complementary_data({"task": INSTRUCTIONS["pi0"]})["task"]


def prompts_of_pi05():
    transition = {
        TransitionKey.OBSERVATION: {"observation.state": torch.from_numpy(state())},
        TransitionKey.COMPLEMENTARY_DATA: {"task": INSTRUCTIONS["pi05"]},
    }
    step = Pi05PrepareStateTokenizerProcessorStep(max_state_dim=MAX_STATE)
    return step(transition)[TransitionKey.COMPLEMENTARY_DATA]["task"]


@torch.no_grad()
def reference(policy, prompts, has_state):
    tokens, mask = map(torch.from_numpy, byt5_tokens(prompts))
    batch = {
        f"observation.images.{view}": torch.from_numpy(pixels).float() / 255
        for view, pixels in images().items()
    }
    batch["observation.state"] = torch.from_numpy(state())
    batch["action"] = torch.zeros(2, CHUNK, ACTIONS)
    pictures, picture_masks = policy._preprocess_images(batch)
    states = [policy.prepare_state(batch)] if has_state else []
    inputs = (pictures, picture_masks, tokens, mask, *states)
    start, time = torch.from_numpy(noise()), torch.full((2,), TIME)
    # The training pass, on actions of zero.
    squared = policy.model(*inputs, torch.zeros_like(start), start, time)
    velocities, denoise_step = [], policy.model.denoise_step

    def record(**arguments):
        velocities.append(denoise_step(**arguments))
        return velocities[-1]

    policy.model.denoise_step = record
    actions = policy.model.sample_actions(*inputs, noise=start)
    return {
        "prompts": prompts,
        "squared_error": exact(squared),
        "first_velocity": exact(velocities[0]),
        "actions": exact(actions),
        "shapes": {name: list(tensor.shape) for name, tensor in policy.state_dict().items()},
    }


def exact(tensor):
    """Numbers with the nine digits that tell float32 numbers apart."""
    return [float(f"{number:.9g}") for number in tensor.flatten().tolist()]


def main():
    pi0 = build(modeling_pi0, PI0Config, modeling_pi0.PI0Policy)
    pi05 = build(modeling_pi05, PI05Config, modeling_pi05.PI05Policy)
    written = {
        "versions": {name: version(name) for name in ("lerobot", "transformers", "torch")},
        "time": TIME,
        "pi0": reference(pi0, prompts_of_pi0(), has_state=True),
        "pi05": reference(pi05, prompts_of_pi05(), has_state=False),
    }
    Path(__file__).with_suffix(".json").write_text(
        json.dumps(written, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    main()
