"""Networks, independent of the diffusion process: vision, language, prefix, action expert."""

from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection, NoisyTokenEmbedding
from e0_lightning.networks.gaussian_head import GaussianHead
from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.networks.prompt import Prompt
from e0_lightning.networks.vision import RelativeSphericalEmbedding, VisionEncoder

__all__ = [
    "ActionExpert",
    "ActionProjection",
    "GaussianHead",
    "LanguageModel",
    "NoisyTokenEmbedding",
    "Prefix",
    "PrefixEncoder",
    "Prompt",
    "RelativeSphericalEmbedding",
    "VisionEncoder",
]
