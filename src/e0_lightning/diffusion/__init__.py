"""Diffusion over action tokens: processes, schedules, samplers; torch only."""

from e0_lightning.diffusion.flow_matching import PathPoint, RectifiedFlow
from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.projected_noise import corrupt_projected
from e0_lightning.diffusion.samplers import (
    ArgmaxSampler,
    CategoricalSampler,
    ReleasedSampler,
    Sampler,
    TweedieSampler,
)
from e0_lightning.diffusion.schedules import (
    BetaTau,
    IdentifiabilitySchedule,
    IdentifiabilityTau,
    Schedule,
    TauDistribution,
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
    "Sampler",
    "Schedule",
    "TauDistribution",
    "TokenMasking",
    "TweedieSampler",
    "UniformSchedule",
    "UniformTau",
    "corrupt_projected",
]
