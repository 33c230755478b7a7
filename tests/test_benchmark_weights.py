"""`benchmark.py weights`: that both sides read the same file, and what is made of their figures."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import benchmark
import benchmark_weights
from benchmark_imports import FORMATS, SMALLEST

pytest.importorskip("torch")


@pytest.mark.parametrize("ending", FORMATS)
def test_both_sides_read_the_same(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors.torch")
    path = str(tmp_path / f"x{ending}")
    read, more = benchmark_weights.zoo_engine(SMALLEST)
    size = more["make"](path)
    ours, theirs = read(path), benchmark_weights.torch_engine(path)[0](path)
    assert len(ours.table) == len(theirs)
    assert sum(tensor.numel() * 4 for tensor in theirs.values()) / 1e6 == pytest.approx(size)
    operations = benchmark_weights.operations("zoo", path, SMALLEST)
    assert operations["load"](2) > 0


def test_a_quick_run(capsys):
    pytest.importorskip("safetensors.torch")
    assert benchmark.main(["weights", "--quick"]) == 0
    shown = capsys.readouterr().out
    for ending in FORMATS:
        assert f"| weights: resnet50{ending} | zoo |" in shown
        assert f"| weights: resnet50{ending} | torch |" in shown
    assert shown.count("zoo / torch") == 2
    assert shown.count("memory of an import / size of the weights") == 2
