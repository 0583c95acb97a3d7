"""Mathematics over tokens: processes, schedules, samplers; torch only."""

from e0_lightning.diffusion.process import OneHotDiffusion
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
    "IdentifiabilitySchedule",
    "IdentifiabilityTau",
    "OneHotDiffusion",
    "ReleasedSampler",
    "Sample",
    "Sampler",
    "Schedule",
    "TauDensity",
    "TweedieSampler",
    "UniformSchedule",
    "UniformTau",
]
