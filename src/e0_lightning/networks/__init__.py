"""Networks that know no noise: vision, language, prefix, action expert."""

from e0_lightning.networks.expert import ActionExpert
from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.port import ActionPort
from e0_lightning.networks.prefix import Prefix, PrefixEncoder
from e0_lightning.networks.vision import RelativeSphericalEmbedding, VisionEncoder

__all__ = [
    "ActionExpert",
    "ActionPort",
    "LanguageModel",
    "Prefix",
    "PrefixEncoder",
    "RelativeSphericalEmbedding",
    "VisionEncoder",
]
