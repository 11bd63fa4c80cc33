"""What a run shows on the screen: progress with time left, messages, the final table."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ._run import Reporter

LINE_SECONDS = 30.0


class ConsoleReporter(Reporter):
    """A progress bar on a terminal; elsewhere a line every half minute."""

    def __init__(self, console: Console):
        self.console = console
        self._progress: Progress | None = None
        self._task: Any = None
        self._description, self._total, self._done = "", 0, 0
        self._began = self._printed = 0.0
        self._first = 0

    def __enter__(self) -> "ConsoleReporter":
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the terminal as it was, also after an error."""
        self.end()

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def begin(self, description: str, total: int, done: int) -> None:
        self._description, self._total, self._done, self._first = description, total, done, done
        self._began = self._printed = time.monotonic()
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                description, total=total, completed=done, figures=""
            )

    def advance(self, count: int, **figures: float) -> None:
        self._done += count
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        if self._progress is not None:
            self._progress.update(self._task, advance=count, figures=shown)
            return
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS or self._done >= self._total:
            self._printed = now
            left = (now - self._began) / max(1, self._done - self._first)
            left *= self._total - self._done
            self.say(f"{self._description} {self._done}/{self._total}  {left:.0f} s left  {shown}")

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def results_table(results: dict[str, Any], title: str) -> Table:
    """Accuracies of the distilled set and of the random subset, in percent."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("trained on")
    table.add_column("test accuracy", justify="right")
    table.add_column("networks", justify="right")
    rows = {"distilled": "distilled set", "random_subset": "random subset, same size"}
    for key, name in rows.items():
        if key in results:
            table.add_row(name, percent(results[key]), str(len(results[key])))
    return table


def percent(accuracies: Sequence[float]) -> str:
    """Mean ± standard deviation over networks, in percent; of one network, its accuracy."""
    if len(accuracies) == 1:
        return f"{100 * accuracies[0]:.1f} %"
    return f"{100 * np.mean(accuracies):.1f} ± {100 * np.std(accuracies):.1f} %"
