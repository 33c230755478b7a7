"""What a run shows: a live progress bar on a terminal, one plain line per evaluation in a pipe."""

import datetime
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.text import Text


class _TimeLeft(ProgressColumn):
    def render(self, task):
        if task.time_remaining is None:
            return Text("-:--:-- left")
        return Text(f"{datetime.timedelta(seconds=int(task.time_remaining))} left")


class Display:
    """The display of one training run, from step `done`; use it in a with block."""

    def __init__(self, run, done: int, file=None):
        self.total, meta = run.total_steps, run.dataset.meta
        self.steps_per_epoch, self.batch_size = meta["steps_per_epoch"], meta["batch_size"]
        self.console = Console(file=file or sys.stdout, highlight=False, soft_wrap=True)
        self._mark = (done, time.perf_counter())
        self._bar = None
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(), TextColumn("epoch {task.fields[epoch]}"), BarColumn(),
                TextColumn("step {task.completed}/{task.total}  {task.fields[values]}"),
                TextColumn("{task.fields[speed]}"), _TimeLeft(),
                console=self.console, transient=True, refresh_per_second=4,
            )  # fmt: skip
            self._task = self._bar.add_task(
                "", total=self.total, completed=done, epoch="-", values="compiling", speed=""
            )

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def _speed(self, step: int) -> float:
        """Examples per second since the last call."""
        (before, then), now = self._mark, time.perf_counter()
        self._mark = (step, now)
        return (step - before) * self.batch_size / max(now - then, 1e-9)

    def train(self, step: int, values: dict[str, float]) -> None:
        """New training metrics; moves the bar."""
        if self._bar:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._bar.update(
                self._task,
                completed=step,
                epoch=f"{step / self.steps_per_epoch:.1f}",
                values=shown,
                speed=f"{self._speed(step):,.0f} examples/s",
            )

    def evaluated(self, step: int, values: dict[str, float], folder) -> None:
        """One line for an evaluation, after the last training loss."""
        if losses := folder.history("train/loss"):
            values = {"train/loss": losses[-1]} | values
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.console.print(f"epoch {step / self.steps_per_epoch:6.1f}  step {step}/{self.total}  {shown}", markup=False)


def draw_curve(values, *, height: int = 8, width: int = 64) -> str:
    """A function of the step as a drawing of block characters, `height` lines of `width` columns with its scale."""
    columns = [values[min(int(i * len(values) / width), len(values) - 1)] for i in range(width)]
    top, blocks = max(max(columns), 1e-30), " ▁▂▃▄▅▆▇█"
    lines = []
    for row in range(height - 1, -1, -1):
        cells = (min(max(round((v / top * height - row) * 8), 0), 8) for v in columns)
        label = f"{top:9.3g} " if row == height - 1 else f"{0:9.3g} " if row == 0 else " " * 10
        lines.append(label + "".join(blocks[c] for c in cells))
    return "\n".join(lines) + f"\n{'':10}step 0{f'step {len(values)}':>{width - 6}}"
