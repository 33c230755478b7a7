"""What scripts/benchmark.py compares: the processes that train, and the formulations of a layer."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import benchmark
import benchmark_conv
from benchmark_cases import CASES, LAYERS, REPEATS, Layer


class FakeWorker:
    """Takes scripted seconds for every step."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, operation, steps):
        if self.seconds is None:
            raise benchmark.UnavailableError("it failed")
        return self.seconds * steps

    def side(self, operation):
        return lambda steps: self.ask(operation, steps)


@pytest.fixture
def family(monkeypatch):
    """Runs `benchmark models --quick` with scripted seconds per engine; gives the results and the engines started."""

    def run(model, *arguments, **seconds):
        started = []

        def engine(name, model, folder, **options):
            kind = "compiled" if options.get("compiled") else "last" if options.get("channels_last") else name
            if kind not in seconds:
                raise benchmark.UnavailableError(f"no {kind}")
            started.append((kind, options))
            return FakeWorker(seconds[kind])

        monkeypatch.setattr(benchmark, "engine", engine)
        options = benchmark.parse(["models", "--quick", "--model", model, *arguments])
        return dict(benchmark.models(options)), started

    return run


@pytest.mark.parametrize("last, note", [(2.0, "torch compile is of torch channels_last, the quicker one"), (4.0, None)])
def test_compiles_the_quicker_layout(family, last, note):
    found, started = family("unet", zoo=2.0, bare=1.0, torch=3.0, last=last, compiled=2.5)
    result = found["unet, training step"]
    assert list(result["sides"]) == ["zoo", "bare flax", "torch eager", "torch channels_last", "torch compile"]
    assert [options["channels_last"] for kind, options in started if kind == "compiled"] == [last == 2.0] * 2
    assert result.get("note") == note
    cold = {name for name, side in result["sides"].items() if "first_cold_s" in side}
    assert cold == {"zoo", "torch compile"}
    assert result["work"] == {"amount": 4, "unit": "examples"}
    best, bare = result["targets"]
    assert (best["value"], best["target"]) == (min(last, 2.5) / 2, "at least 0.9")
    assert bare == {"what": "bare flax / zoo", "value": 0.5, "target": "at least 0.98", "reached": False}
    assert "targets" not in found["unet, evaluation"]


def test_no_goal_and_no_images(family):
    found, started = family("convnet1d", zoo=1.0, bare=1.0, torch=3.0, compiled=2.0)
    best, bare = found["convnet1d, training step"]["targets"]
    assert (best["value"], best["target"], best["reached"]) == (2.0, "no goal", None)
    assert bare["reached"] is True
    assert not any(kind == "last" for kind, _ in started)


def test_without_torch(family):
    result = family("resnet18", zoo=1.0, bare=2.0)[0]["resnet18, training step"]
    assert result["not_available"] == {
        "torch eager": "no torch", "torch channels_last": "no last", "torch compile": "no compiled",
    }  # fmt: skip
    assert [found["what"] for found in result["targets"]] == ["bare flax / zoo"]
    failed = family("resnet18", zoo=1.0, bare=None)[0]["resnet18, training step"]
    assert failed["not_available"]["bare flax"] == "it failed"
    assert failed["targets"] == []
    with pytest.raises(benchmark.UnavailableError, match="no bare"):
        family("resnet18", zoo=1.0)


def test_quick_run_of_a_family(tmp_path):
    """Real processes; those of PyTorch where it is installed."""
    path = tmp_path / "results.json"
    done = benchmark.main(["models", "--quick", "--no_compile", "--model", "convnet1d", "--output", str(path)])
    assert done in (0, 1)  # 1: a goal was missed, which other work on the machine decides here
    results = json.loads(path.read_text())
    assert set(results) == {"models: convnet1d, evaluation", "models: convnet1d, training step"}
    result = results["models: convnet1d, training step"]
    assert {"zoo", "bare flax"} <= set(result["sides"])
    assert ("torch eager" in result["sides"]) == (importlib.util.find_spec("torch") is not None)
    assert result["not_available"].pop("torch compile") == "left out by --no_compile"
    for side in result["sides"].values():
        assert side["step_s"]["min"] > 0
        assert side["peak_mb"] > 10
    assert "examples/s" in benchmark.markdown(results)


@pytest.mark.parametrize(
    "name, model, options, operations",
    [
        ("torch", "unet", {"channels_last": True}, ("train", "eval")),
        ("torch", "mlp", {}, ("train", "eval")),
        ("keras", "lenet5", {}, ("epochs",)),
        ("keras", "mlp", {}, ("epochs",)),
    ],
)
def test_peers_run(tmp_path, name, model, options, operations):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}: pip install -e '.[bench]'")
    case = CASES[model].smallest()
    sizes = {"rows": case.rows, "batch_size": case.batch_size}
    with benchmark.engine(name, model, str(tmp_path), **sizes, **options) as process:
        for operation in operations:
            assert process.ask(operation, 1) > 0


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_formulations_have_the_same_shapes_and_cost(layer):
    table, stacked = benchmark_conv.programs(layer)
    assert {len(leaf) for leaf in jax.tree.leaves(stacked)} == {REPEATS}
    inputs = jax.tree.map(lambda leaf: leaf[0], stacked)
    for name, formulations in table.items():
        assert len(formulations) == (3 if layer.kernel == 1 else 2)
        shapes = [jax.eval_shape(fn, *inputs) for fn in formulations.values()]
        assert all(found == shapes[0] for found in shapes)
        if name == "forward":  # XLA does not count the taps that lie in the padding
            cost = jax.jit(list(formulations.values())[-1]).lower(*inputs).cost_analysis()
            assert cost["flops"] == pytest.approx(1e9 * layer.gflop, rel=0.2)


def test_quick_run_of_a_layer(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    monkeypatch.setattr(benchmark, "LAYERS", [Layer("conv", 128, 32, 8, 8, kernel=1), Layer("norm", 4, 128, 8, 8)])
    assert benchmark.main(["conv", "--quick", "--output", str(path)]) == 0
    results = json.loads(path.read_text())
    convolution = "conv: 4 x conv 1x1, 2x8x8, 8 to 8"
    norm = "conv: 4 x norm, 2x8x8, 8 channels, forward and gradients"
    assert set(results) == {
        norm, f"{convolution}, forward", f"{convolution}, input gradient", f"{convolution}, weight gradient",
    }  # fmt: skip
    names = ["zoo", "lax", "matrix product"]
    sides = results[f"{convolution}, forward"]["sides"]
    assert list(sides) == [side for name in names for side in (name, f"{name}, in a scan")]
    assert "GFLOP/s" in benchmark.markdown(results)
    assert "work" not in results[norm]


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_formulations_must_agree(monkeypatch, factor):
    formulations = {"zoo": lambda x, p: (x * p, {}), "other": lambda x, p: (x * p * factor, {})}
    monkeypatch.setitem(
        benchmark_conv.KINDS, "conv", (lambda layer: (formulations, ()), {"forward": benchmark_conv.forward})
    )
    operations = benchmark_conv.operations(Layer("conv", 2, 4, 3, 3))
    assert operations["sides"]() == {"forward": ["zoo", "zoo, in a scan", "other", "other, in a scan"]}
    assert operations["forward/other, in a scan"](2) > 0
    if factor == 1:
        operations["check"]("forward")
    else:
        with pytest.raises(AssertionError, match=r"forward: other is off by 0\.01"):
            operations["check"]("forward")
