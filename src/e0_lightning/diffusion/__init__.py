"""Mathematics over tokens: processes, schedules, samplers; torch only."""

from e0_lightning.diffusion.flow import PathPoint, RectifiedFlow
from e0_lightning.diffusion.masking import ConfidenceSampler, TokenMasking
from e0_lightning.diffusion.process import OneHotDiffusion
from e0_lightning.diffusion.projected import corrupt_projected
from e0_lightning.diffusion.samplers import (
    ArgmaxSampler,
    CategoricalSampler,
    ReleasedSampler,
    Sample,
    Sampler,
    TweedieSampler,
)
from e0_lightning.diffusion.schedules import (
    BetaTau,
    IdentifiabilitySchedule,
    IdentifiabilityTau,
    Schedule,
    TauDensity,
    UniformSchedule,
    UniformTau,
)

__all__ = [
    "ArgmaxSampler",
    "BetaTau",
    "CategoricalSampler",
    "ConfidenceSampler",
    "IdentifiabilitySchedule",
    "IdentifiabilityTau",
    "OneHotDiffusion",
    "PathPoint",
    "RectifiedFlow",
    "ReleasedSampler",
    "Sample",
    "Sampler",
    "Schedule",
    "TauDensity",
    "TokenMasking",
    "TweedieSampler",
    "UniformSchedule",
    "UniformTau",
    "corrupt_projected",
]
