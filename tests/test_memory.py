"""The allocator keeps freed pages, unless the user chose otherwise."""

import ctypes
import os
import pathlib
import re
import subprocess
import sys

import pytest

from zoo import memory

TOUCH = """
import ctypes, resource, sys, threading
import zoo
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def touch(size=int(sys.argv[1])):
    for _ in range(20):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
thread = threading.Thread(target=touch)  # XLA runs programs in threads of its own
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""

HUGE = """
import ctypes
import zoo
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(200_000_000), 1, 200_000_000)
print(open("/proc/self/smaps_rollup").read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize("size", [40_000_000, 100_000_000])
def test_pages_are_not_fetched_anew(size):
    faults = [
        int(subprocess.check_output([sys.executable, "-c", TOUCH, str(size)], env={**os.environ, **own}, text=True))
        for own in ({"MALLOC_TRIM_THRESHOLD_": "131072"}, {})  # a setting of the user's, which is the default
    ]
    assert faults[1] < faults[0] / 2


def test_a_users_settings_are_left_alone(monkeypatch):
    called = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: called.append(name))
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    memory.keep_freed_pages()
    assert not called


def test_huge_pages_where_the_kernel_has_them():
    enabled = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("this kernel gives no huge pages")
    settings = ({"MALLOC_TRIM_THRESHOLD_": "131072"}, {})
    found = [
        subprocess.check_output([sys.executable, "-c", HUGE], env={**os.environ, **own}, text=True) for own in settings
    ]
    huge_kb = [int(re.search(r"AnonHugePages:\s+(\d+) kB", text)[1]) for text in found]
    assert huge_kb[1] > huge_kb[0] + 100_000
