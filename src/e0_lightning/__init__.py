"""E0, Tweedie discrete diffusion for robot actions, as PyTorch Lightning modules.

Public names are imported on first use, so that a name costs no more than the module that defines
it. ``__init__.pyi`` declares the same names for type checkers.
"""

from importlib import import_module

__version__ = "0.2.0"

_MODULES = {
    "E0": "policies.e0",
    "ActionExpert": "networks.action_expert",
    "ActionSample": "types",
    "ActionSpace": "actions.action_space",
    "ActionTokenizer": "actions.tokenizer",
    "AlohaEpisodes": "evaluation.aloha_episodes",
    "ArgmaxSampler": "diffusion.samplers",
    "Autoregressive": "policies.autoregressive",
    "Batch": "types",
    "BestCheckpoint": "training.callbacks.best_checkpoint",
    "CategoricalSampler": "diffusion.samplers",
    "ConfidenceSampler": "diffusion.masked",
    "CosineAdamW": "training.optimizer",
    "DemoReader": "data.formats.base",
    "DroidEpisodes": "evaluation.droid_episodes",
    "E0Hybrid": "policies.e0_hybrid",
    "FineTuning": "training.finetuning",
    "FlowMatching": "policies.flow_matching",
    "ImageAugmentation": "augment.image_augmentation",
    "LanguageModel": "networks.language",
    "LiberoEpisodes": "evaluation.libero_episodes",
    "ManiSkillEpisodes": "evaluation.maniskill_episodes",
    "MaskedDiffusion": "policies.masked_diffusion",
    "MeanStdNormalizer": "actions.normalizers",
    "NormalizedBatch": "types",
    "Observation": "types",
    "OneHotDiffusion": "diffusion.one_hot",
    "Policy": "policies.base",
    "PolicySpec": "types",
    "PrefixEncoder": "networks.prefix_encoder",
    "PushTEpisodes": "evaluation.pusht_episodes",
    "QuantileNormalizer": "actions.normalizers",
    "RectifiedFlow": "diffusion.flow_matching",
    "Regression": "policies.regression",
    "RelativeActions": "actions.relative",
    "ReleasedSampler": "diffusion.samplers",
    "RobotDemos": "data.datamodule",
    "RolloutReport": "evaluation.report.callback",
    "Sampler": "diffusion.samplers",
    "SphericalWarp": "augment.spherical_warp",
    "TokenMasking": "diffusion.masked",
    "TweedieSampler": "diffusion.samplers",
    "ViewpointPerturbation": "augment.viewpoint",
    "VisionEncoder": "networks.vision",
    "build_policy": "policies.checkpoint",
    "load_policy": "policies.checkpoint",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
