"""What a run shows, on a terminal and in a pipe."""

import io
import types

import numpy as np

from zoo.console import Display, draw_curve


class Terminal(io.StringIO):
    def isatty(self):
        return True


RUN = types.SimpleNamespace(
    total_steps=20, dataset=types.SimpleNamespace(meta={"steps_per_epoch": 10, "batch_size": 4})
)
FOLDER = types.SimpleNamespace(history=lambda name: [0.5] if name == "train/loss" else [])


def show(file):
    with Display(RUN, 0, file) as display:
        display.train(5, {"loss": 0.5, "accuracy": 0.25})
        display.evaluated(10, {"test/loss": 0.125}, FOLDER)
        if display._bar:
            display._bar.refresh()
    return file.getvalue()


def test_a_pipe_gets_one_plain_line_per_evaluation():
    assert show(io.StringIO()) == "epoch    1.0  step 10/20  train/loss 0.5  test/loss 0.125\n"


def test_a_terminal_gets_a_live_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    shown = show(Terminal())
    for part in ("epoch 0.5", "step 5/20", "loss 0.5", "accuracy 0.25", "examples/s", "left", "test/loss 0.125"):
        assert part in shown, part


def test_the_curve_has_the_height_of_its_values():
    lines = draw_curve(np.linspace(1, 0, 100), height=4, width=20).splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("        1 ")
    columns = [sum(line[10 + i : 11 + i] not in (" ", "") for line in lines[:4]) for i in range(20)]
    assert columns == sorted(columns, reverse=True)
    assert columns[0] == 4
    assert "step 100" in lines[-1]
