"""The allocator keeps freed pages, unless the user chose otherwise."""

import ctypes
import subprocess
import sys

import pytest

from zoo import memory

TOUCH = """
import ctypes, resource, sys
import zoo.memory
if "keep" in sys.argv:
    zoo.memory.keep_freed_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(50):
    block = libc.malloc(40_000_000)
    ctypes.memset(block, 1, 40_000_000)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_are_not_fetched_anew():
    faults = [
        int(subprocess.run([sys.executable, "-c", TOUCH, *more], check=True, capture_output=True, text=True).stdout)
        for more in ([], ["keep"])
    ]
    assert faults[1] < faults[0] / 2


def test_a_users_settings_are_left_alone(monkeypatch):
    called = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: called.append(name))
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    memory.keep_freed_pages()
    assert not called
