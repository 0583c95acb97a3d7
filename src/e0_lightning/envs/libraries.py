"""Libraries of the system that the simulators' Python packages load."""

from __future__ import annotations

ADVICE = """OpenCV, which the simulators import, cannot be loaded: {found}.
As root: apt-get install -y libgl1 libglib2.0-0
(other systems: the packages with libGL.so.1 and libgthread-2.0.so.0)."""


def require_libraries() -> None:
    """Refuse to go on where OpenCV cannot be loaded.

    Nothing happens where it is not installed: the simulators, which bring it, are not either.

    Raises:
        RuntimeError: If a library is missing, saying what to install.
    """
    try:
        import cv2  # noqa: F401
    except ModuleNotFoundError:
        return
    except ImportError as error:
        raise RuntimeError(ADVICE.format(found=error)) from error
