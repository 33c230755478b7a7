"""Memory of the host, on Linux with glibc."""

import contextlib
import ctypes
import os
import sys

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MADV_HUGEPAGE = 14  # of <sys/mman.h>
HUGE_PAGE = 2**21
RESERVED = (2**30 - HUGE_PAGE, 2**30 - HUGE_PAGE)  # blocks that malloc takes from the heap, in all less than it trims


def keep_freed_pages() -> None:
    """Lets the allocator keep what XLA frees, instead of giving it back to the system after every step.

    XLA on the CPU allocates the temporary arrays of a program each time it runs. Large ones come from glibc as fresh
    pages, which the kernel must clear and map again in every step: LeNet-5's took 8.0 instead of 4.2 ms (2 cores,
    batch 128). The process stays as large as it once was. A user's own MALLOC_* settings are left alone.

    All threads share one arena, because any other than the first takes no block above 64 MB: ResNet-20 spent a
    quarter of its step on its 200 MB. Threads that have an arena keep it, so call this before any is started. The
    first 2 GB of it are huge pages where the kernel has them, so that the time does not depend on where the pages
    happen to lie: an MLP's step took 1.5 to 1.6 ms, with small pages 1.5 to 2.4 (`benchmark.py models`, one run each).
    """
    own = {"MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}
    chosen = own & os.environ.keys()
    if sys.platform != "linux" or chosen:
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_ARENA_MAX, 1)
        _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Takes the heap's next 2 GB, marks them and gives them back unused: addresses, but no memory yet."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [(libc.malloc(size), size) for size in RESERVED]
    for block, size in blocks:
        if block:  # there may be a limit on addresses
            start = -(-block // HUGE_PAGE) * HUGE_PAGE
            libc.madvise(start, block + size - start, MADV_HUGEPAGE)
    for block, _ in blocks:
        libc.free(block)
