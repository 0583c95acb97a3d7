"""The command lines `lightning` (Lightning's verbs) and `e0` (all other verbs), loaded lazily."""

from importlib import import_module

__all__ = ["e0", "main", "run"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "e0_cli" if name == "e0" else "lightning_cli"
    return getattr(import_module(f"{__name__}.{module}"), name)
