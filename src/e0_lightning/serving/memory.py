"""Memory of large requests, returned to the system."""

from __future__ import annotations

import ctypes
import platform

_M_MMAP_THRESHOLD = -3
"""Parameter of glibc's ``mallopt``: bytes from which a block is mapped on its own."""

_LARGE_BLOCK = 4 * 2**20


def return_large_blocks() -> bool:
    """Let the C library return large blocks to the system as soon as they are freed.

    glibc raises the size from which it does so, up to 32 MiB, with the size of the blocks that are
    freed. After one large request, those of later ones lie in heaps, which do not shrink: a server
    that was attacked keeps a third more memory. A size that is set stays as it is.

    Returns:
        Whether the C library is glibc; others are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK))
