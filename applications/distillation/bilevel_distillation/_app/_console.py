"""What a run shows on the screen: progress with time left, messages, the final table."""

import time
from collections.abc import Sequence
from typing import Any

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

from .._artifacts import (
    Accuracies,
    AttackResults,
    Judges,
    in_words,
    percent,
    spread,
)
from .._judging import Evaluation, Ranking
from .._running import Reporter
from ._swept import SweptSetting

LINE_SECONDS = 30.0
_FIRST = "compiling"


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
                description, total=total, completed=done, figures=_FIRST
            )
        elif done < total:
            self.say(f"{description} {done}/{total}  {_FIRST}")

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


_KINDS = {"distilled": "distilled set", "random_subset": "random subset, same size"}


def results_table(results: Accuracies, title: str) -> Table:
    """Accuracies of the distilled set and of the random subset, in percent."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("trained on")
    table.add_column("test accuracy", justify="right")
    table.add_column("networks", justify="right")
    for kind, name in _KINDS.items():
        found = getattr(results, kind)
        if found is not None:
            table.add_row(name, percent(found), str(len(found)))
    return table


def architectures_table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """One row for each network with its normalisation, labels and recipe; accuracies in percent."""
    table = Table(title=Text(title), title_justify="left")
    usual = Judges("", "")
    names = ["network", "norm", *(
        name for name in ("judge", "labels", "recipe")
        if any(getattr(one.judges, name) != getattr(usual, name) for one in evaluations)
    )]  # fmt: skip
    for name in names:
        table.add_column(name)
    first = evaluations[0].accuracies
    shown = {kind: name for kind, name in _KINDS.items() if getattr(first, kind) is not None}
    for name in shown.values():
        table.add_column(name, justify="right")
    table.add_column("networks", justify="right")
    for one in evaluations:
        found = [percent(getattr(one.accuracies, kind)) for kind in shown]
        kind = (str(getattr(one.judges, name) or "") for name in names)
        table.add_row(*kind, *found, str(len(one.accuracies.distilled)))
    return table


def sets_table(evaluations: Sequence[Evaluation]) -> Table:
    """A row for each set and each kind of judges; which is best on held-out training images."""
    table = Table(title=Text("set by set"), title_justify="left")
    for name in ("set", "judged by"):
        table.add_column(name)
    for name in ("held-out images", "test accuracy"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in evaluations:
        best = one.best
        for of in one.sets:
            held_out = "" if of.held_out is None else percent(of.held_out)
            mark = "best on held-out images" if of is best and len(one.sets) > 1 else ""
            table.add_row(Text(of.path), str(one.judges), held_out, percent(of.distilled), mark)
    return table


def ranking_table(ranking: Ranking, title: str) -> Table:
    """The scores of DD-Ranking, and the accuracies in percent that they come from."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("DD-Ranking")
    table.add_column("distilled set", justify="right")
    table.add_column("compared to", justify="right")
    table.add_column("that is")
    random = "random subset, same size"
    for name, one, other, what in (
        ("this recipe", ranking.distilled, ranking.random, random),
        ("hard labels", ranking.distilled_hard, ranking.full_hard, "all training images"),
        ("augmented", ranking.distilled_augmented, ranking.random_augmented, random),
        ("not augmented", ranking.distilled_plain, ranking.random_plain, random),
    ):
        table.add_row(name, percent([one]), percent([other]), what)
    table.add_section()
    table.add_row("label-robust score", f"{ranking.label_robust_score:.1f}")
    table.add_row("augmentation-robust score", f"{ranking.augmentation_robust_score:.1f}")
    return table


def attack_table(results: AttackResults, title: str) -> Table:
    """AUC of each attacker, and test accuracy in percent; a column for each kind of training data.

    Figures are means ± standard deviations over networks.
    """
    table = Table(title=Text(title), title_justify="left")
    table.add_column("attacker, AUC")
    names = _KINDS | {"real_data": "real data"}
    for kind in results.kinds:
        table.add_column(names[kind], justify="right")
    kinds = [results.of(kind) for kind in results.kinds]
    for attacker in kinds[0][0].auc:
        found = [[one.auc[attacker] for one in networks] for networks in kinds]
        table.add_row(in_words(attacker), *map(spread, found))
    table.add_section()
    accuracies = [[one.test_accuracy for one in networks] for networks in kinds]
    table.add_row("test accuracy", *map(percent, accuracies))
    table.add_row("networks", *(str(len(networks)) for networks in kinds))
    return table


def sweep_table(rows: Sequence[SweptSetting], title: str) -> Table:
    """A row for each setting: what varied, and accuracies in percent, over seeds."""
    table = Table(title=Text(title), title_justify="left")
    for name in rows[0].varied:
        table.add_column(name)
    for name in (*_KINDS.values(), "runs", "failed"):
        table.add_column(name, justify="right")
    for row in rows:
        found = map(str, (row.distilled, row.random_subset))
        table.add_row(*map(str, row.varied.values()), *found, str(row.seeds), str(row.failed or ""))
    return table
