"""The stopwatch of scripts/benchmark.py: that it takes turns and counts right, not how fast anything is."""

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import benchmark  # noqa: E402
import benchmark_harness as harness  # noqa: E402
import benchmark_report as report  # noqa: E402
import benchmark_worker as worker  # noqa: E402


@pytest.fixture
def record():
    """Makes sides that take scripted seconds, the last one for ever, and note their calls."""
    calls = []

    def side(name, *seconds):
        left = list(seconds)

        def run(steps):
            calls.append((name, steps))
            return left.pop(0) if len(left) > 1 else left[0]

        return run

    side.calls = calls
    return side


def compare(sides, **options):
    return harness.compare(sides, **{"wait": lambda **_: {"idle": True}, **options})


def test_sides_take_turns(record):
    found = compare({"a": record("a", 1.0), "b": record("b", 2.0)}, steps=10)
    assert record.calls == [("a", 1), ("b", 1)] + 8 * [("a", 10), ("b", 10)]  # a warm-up and 7 windows
    assert found["windows"] == harness.MIN_WINDOWS == 7
    assert found["machine"]["idle"] is True


def test_medians_and_first_step(record):
    times = [0.5, 0.1, 0.3, 0.9, 0.2, 0.4, 0.8]
    side = record("a", 60.0, 99.0, *times)  # the first step with its compilation, then the warm-up
    found = compare({"a": side}, steps=10)["sides"]["a"]
    assert found["first_s"] == 60.0
    assert found["steps"] == 10
    assert found["step_s"] == pytest.approx({"median": 0.04, "min": 0.01, "max": 0.09})
    assert set(found["cpu_s"]) == {"median", "min", "max"}


def test_ratio_is_the_median_over_the_rounds(record):
    base, other = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], [3.0, 2.0, 8.0, 8.0, 48.0, 64.0, 64.0]
    found = compare({"base": record("base", 1, 1, *base), "other": record("other", 1, 1, *other)}, steps=1)
    assert found["ratios"] == {"other": {"median": 2.0, "min": 1.0, "max": 3.0}}
    assert statistics.median(other) / statistics.median(base) == 1.0  # which would hide it


def test_steps_fill_the_window():
    calls = []
    found = compare({"a": lambda steps: calls.append(steps) or steps * 1e-3}, window_s=0.5)
    assert found["sides"]["a"]["steps"] == 500
    assert calls[-7:] == [500] * 7
    steps = {step_s: compare({"a": lambda n, s=step_s: s * n})["sides"]["a"]["steps"] for step_s in (0.1, 0.2, 1, 3)}
    assert steps == {0.1: 5, 0.2: 4, 1: 2, 3: 1}


def test_seven_windows_at_least(record):
    with pytest.raises(ValueError, match="6 windows are too few for a result; take at least 7"):
        compare({"a": record("a", 1.0)}, windows=6)
    found = compare({"a": record("a", 1.0)}, windows=2, steps=1, quick=True, wait=None)
    assert found["windows"] == 2
    assert "idle" not in found["machine"]  # nothing is said of what was not looked at


def test_unavailable_side_is_left_out(record):
    def broken(steps):
        raise worker.UnavailableError("no compiler")

    found = compare({"a": record("a", 1.0), "b": broken, "c": record("c", 2.0)}, steps=1)
    assert found["not_available"] == {"b": "no compiler"}
    assert list(found["sides"]) == ["a", "c"]
    assert list(found["ratios"]) == ["c"]
    with pytest.raises(worker.UnavailableError, match="no compiler"):
        compare({"b": broken, "a": record("a", 1.0)}, steps=1)


class Clock:
    """A machine whose share of busy CPUs is scripted, one number a second, the last one for ever."""

    def __init__(self, *busy):
        self.now, self.shares = 0.0, list(busy)

    def wait(self, **options):
        return harness.wait_until_idle(busy=self.busy, clock=lambda: self.now, sleep=self.sleep, **options)

    def sleep(self, seconds):
        self.now += seconds

    def busy(self):
        return self.shares.pop(0) if len(self.shares) > 1 else self.shares[0]


def test_waits_until_idle():
    assert Clock(0.02).wait(quiet_s=3) == {"idle": True, "waited_s": 3, "busy": 0.02}
    assert Clock(0.9, 0.8, 0.05).wait(quiet_s=3) == {"idle": True, "waited_s": 5, "busy": 0.05}
    assert Clock(0.0, 0.0, 0.9, 0.0).wait(quiet_s=3)["waited_s"] == 6  # a quiet while must be whole


def test_waiting_ends_and_says_so():
    assert Clock(0.5).wait(timeout_s=20) == {"idle": False, "waited_s": 20, "busy": 0.5}
    assert Clock(None).wait() == {"idle": None, "waited_s": 1, "busy": None}
    assert Clock(0.1).wait(below=0.1, timeout_s=5)["idle"] is False


def test_busy_share_of_this_machine(monkeypatch):
    readings = iter([(10.0, 100.0), (15.0, 120.0), None, None])
    monkeypatch.setattr(harness, "machine_cpu_s", lambda: next(readings))
    busy = harness.BusyShare()
    assert busy() == 0.25
    assert busy() is None
    assert busy() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_reads_the_cpus_of_linux():
    busy, all_ = harness.machine_cpu_s()
    assert 0 < busy < all_
    assert 0 < worker.rss_mb() <= worker.peak_mb() + 1


def test_share_of_others():
    assert harness._others((10.0, 1.0, 100.0), (16.0, 5.0, 110.0)) == {"others": pytest.approx(0.2)}
    assert harness._others((10.0, 1.0, 100.0), (11.0, 5.0, 110.0)) == {"others": 0.0}
    assert harness._others(None, None) == {}


def test_results_are_merged(tmp_path):
    path = tmp_path / "benchmarks" / "machine.json"
    harness.merge(path, {"loop: mlp": {"windows": 7}, "keras: mlp": {"windows": 8}})
    harness.merge(path, {"loop: mlp": {"windows": 9}, "a": {}})
    assert json.loads(path.read_text()) == {"a": {}, "keras: mlp": {"windows": 8}, "loop: mlp": {"windows": 9}}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "cpuinfo, name",
    [
        ("model name\t: AMD EPYC\nmodel name\t: AMD EPYC\n", "amd-epyc-2cpu"),
        ("model name\t: Intel(R) Xeon(R) CPU E5-2673 v4 @ 2.30GHz\n", "intel-xeon-e5-2673-v4-2cpu"),
        ("model name\t: AMD Ryzen 9 7950X 16-Core Processor\n", "amd-ryzen-9-7950x-2cpu"),
    ],
)
def test_machine_has_a_short_name(monkeypatch, cpuinfo, name):
    monkeypatch.setattr(harness, "read_text", lambda path: cpuinfo)
    monkeypatch.setattr(harness, "cpus", lambda: 2)
    assert harness.machine_name() == name


def test_provenance_tells_versions():
    found = harness.provenance()
    assert {"date", "command", "commit", "versions", "cpus"} <= set(found)
    assert "jax" in found["versions"]


WORKER = """
from benchmark_worker import serve

def operations(first, second):
    print("noise on stdout")
    if second == "broken":
        raise ValueError("no such thing\\nand more")

    def steps(count):
        print("more noise")
        return count * first

    return {"steps": steps, "exit": lambda: exit("gone"), "fail": lambda: 1 / 0}

serve(operations)
"""


@pytest.fixture
def worker_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def test_worker_answers(worker_file):
    with worker.Worker(worker_file, 0.5, "ok") as process:
        assert process.ask("steps", 4) == 2.0
        with pytest.raises(worker.WorkerError, match="ZeroDivisionError: division by zero"):
            process.ask("fail")
        found = compare({"a": process.side("steps")}, steps=2)  # it goes on after an error
        assert found["sides"]["a"]["step_s"]["median"] == 0.5
        assert found["sides"]["a"]["peak_mb"] > 1
        assert process.cpu_s > 0
        with pytest.raises(worker.WorkerError, match="its process ended with 1: gone"):
            process.ask("exit")


def test_worker_that_cannot_start(worker_file):
    with pytest.raises(worker.WorkerError, match=r"ValueError: no such thing$"):
        worker.Worker(worker_file, 1, "broken")
    with pytest.raises(worker.WorkerError, match=r"its process ended with 2: .*can't open file"):
        worker.Worker(worker_file.with_name("missing.py"))


@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            ["lop"],
            "error: unknown subcommand 'lop'; known: "
            "loop, memory, start, models, conv, keras, lstm, words, weights, all",
        ),
        (["models", "keras", "--model", "unet"], "error: --model unet: keras measures only mlp and lenet5"),
        (["all", "--model", "mlp", "--model", "unet"], "error: --model unet: loop measures only mlp and lenet5"),
        (["conv", "--model", "mlp"], "error: --model is for loop, models, keras"),
        (["loop", "--no_compile"], "error: --no_compile is for models"),
        (["loop", "--windows", "6"], "error: --windows 6: take at least 7"),
        ([], "error: the following arguments are required: subcommand"),
    ],
)
def test_mistakes_exit_with_two_and_one_line(arguments, line, capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")


def test_missing_package_is_said_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert benchmark.main(["keras", "--quick"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "keras: not measured: keras is not installed; pip install -e '.[bench]'\n")


def test_failure_of_the_zoo_is_no_missing_package(monkeypatch, capsys):
    def broken(*_, **__):
        raise worker.WorkerError("its process ended with 1: boom")

    monkeypatch.setattr(benchmark, "Worker", broken)
    for subcommand in ("loop", "models"):
        assert benchmark.main([subcommand, "--quick"]) == 1
        assert capsys.readouterr().err == f"{subcommand}: not measured: its process ended with 1: boom\n"


def test_table(record):
    sides = {"zoo": record("zoo", 9.0, 0.002), "torch": record("torch", 0.004)}
    result = compare(sides, steps=1) | {
        "work": {"amount": 128, "unit": "examples"},
        "targets": [
            report.target("torch / zoo", 2.0, at_least=2.5),
            report.target("cost", 1.0, at_most=1.0),
            report.target("other", 0.5),
        ],
        "not_available": {"jit": "no compiler"},
        "machine": {"idle": False, "others": 0.25},
    }
    figures = {"figures": {"growth, MB": 1.26}, "machine": {}}
    older = compare({"zoo": record("zoo", 0.5)}, steps=1)  # without 'work', 'targets' and 'note'
    found = {"models: mlp": result, "memory: mlp": figures, "loop: mlp": older}
    found["conv: 1x1"] = older | {"work": {"amount": 1.234, "unit": "GFLOP"}, "note": "busy"}
    lines = report.markdown(found).splitlines()
    assert len({line.count("|") for line in lines[:7]}) == 1
    assert lines[2].startswith("| models: mlp | zoo | 2 ms | 2 ms .. 2 ms | 64,000 examples/s |")
    assert "| 1.000 | 9.00 s |" in lines[2]
    assert "| 32,000 examples/s |" in lines[3]
    assert "| 2.000 |" in lines[3]
    assert lines[4].startswith("| memory: mlp | growth, MB | 1.3 |")
    assert lines[5].startswith("| loop: mlp | zoo | 500 ms | 500 ms .. 500 ms |  |")
    assert "| 2.47 GFLOP/s |" in lines[6]
    assert lines[8:] == [
        "- models: mlp: jit not measured: no compiler",
        "- models: mlp: torch / zoo 2.000, at least 2.5: MISSED",
        "- models: mlp: cost 1.000, at most 1: reached",
        "- models: mlp: other 0.500, no goal",
        "- models: mlp: the machine was NOT idle before, others used 25% of its CPUs meanwhile",
        "- memory: mlp: the machine was not known to be idle before",
        "- loop: mlp: the machine was idle before" + idleness(older),
        "- conv: 1x1: busy",
        "- conv: 1x1: the machine was idle before" + idleness(older),
    ]

    assert report.goals(found).splitlines()[2:] == [
        "| models: mlp | torch / zoo | 2 (machine not idle) | at least 2.5, **missed** |",
        "| models: mlp | cost | 1 (machine not idle) | at most 1 |",
        "| models: mlp | other | 0.5 (machine not idle) | no goal |",
    ]


def idleness(result):
    others = result["machine"].get("others")
    return "" if others is None else f", others used {others:.0%} of its CPUs meanwhile"


def test_quick_run_of_the_loop(tmp_path):
    path = tmp_path / "results.json"
    arguments = ["loop", "--quick", "--model", "mlp", "--output", str(path)]
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert "| loop: mlp | bare step |" in found.stdout
    entry = json.loads(path.read_text())["loop: mlp"]
    assert entry["quick"] is True
    assert list(entry["sides"]) == ["bare step", "loop", "loop, progress bar"]
    assert all(side["step_s"]["min"] > 0 for side in entry["sides"].values())
    assert entry["targets"][0]["target"] == "at most 1.03"
    assert {"date", "command", "versions", "machine"} <= set(entry)
