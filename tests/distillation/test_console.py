"""What the screen shows of results and of a run's progress."""

import io
from contextlib import suppress

import pytest
from rich.console import Console

from bilevel_distillation import Accuracies, OverSeeds, SweptSetting
from bilevel_distillation._app import _console
from bilevel_distillation._app._console import (
    ConsoleReporter,
    architectures_table,
    results_table,
    sweep_table,
)
from bilevel_distillation._judging import Evaluation


def cells(table):
    return [[str(cell) for cell in column.cells] for column in table.columns]


def test_results_have_a_row_for_what_was_judged():
    both = results_table(Accuracies((0.5, 0.6), (0.25,)), "[title]")
    assert str(both.title) == "[title]"
    assert cells(both) == [
        ["distilled set", "random subset, same size"], ["55.0 ± 5.0 %", "25.0 %"], ["2", "1"]
    ]  # fmt: skip
    assert cells(results_table(Accuracies((0.5,)), ""))[1] == ["50.0 %"]


def test_architectures_have_a_column_for_random_subsets_where_these_were_judged():
    rows = [Evaluation("convnet", "none", Accuracies((0.5,), (0.25,))),
            Evaluation("vgg11", "batch", Accuracies((0.75, 0.75), (0.5,)))]  # fmt: skip
    assert cells(architectures_table(rows, "")) == [
        ["convnet", "vgg11"], ["none", "batch"], ["50.0 %", "75.0 ± 0.0 %"],
        ["25.0 %", "50.0 %"], ["1", "2"],
    ]  # fmt: skip
    alone = [Evaluation("convnet", "none", Accuracies((0.5,)))]
    assert len(architectures_table(alone, "").columns) == 4


def test_a_sweep_shows_what_failed_and_what_has_one_seed():
    rows = [
        SweptSetting({"ipc": 1}, 2, 0, OverSeeds(0.5, 0.125), OverSeeds(0.25, 0.0)),
        SweptSetting({"ipc": 10}, 1, 1, OverSeeds(0.75, None), OverSeeds(0.5, None)),
        SweptSetting({"ipc": 50}, 0, 2, OverSeeds(None, None), OverSeeds(None, None)),
    ]
    dash = "\N{EN DASH}"
    assert cells(sweep_table(rows, "")) == [
        ["1", "10", "50"], ["50.0 ± 12.5 %", "75.0 %", dash], ["25.0 ± 0.0 %", "50.0 %", dash],
        ["2", "1", "0"], ["", "1", "2"],
    ]  # fmt: skip


def test_off_a_terminal_progress_is_a_line_each_half_minute_and_one_at_the_end(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(_console.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    with ConsoleReporter(Console(file=file, width=100)) as reporter:
        reporter.begin("distilling", 10, 4)  # a run that goes on: four are behind it
        for seconds in (10, 21, 1, 1, 1, 1):
            clock[0] += seconds
            reporter.advance(1, loss=0.5)
    assert file.getvalue().splitlines() == [
        "distilling 4/10  compiling",
        "distilling 6/10  62 s left  loss 0.500", "distilling 10/10  0 s left  loss 0.500"
    ]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_on_a_terminal_the_bar_is_gone_at_the_end_whatever_happens(fails):
    file = io.StringIO()
    reporter = ConsoleReporter(Console(file=file, width=100, force_terminal=True))
    with suppress(RuntimeError), reporter:
        reporter.begin("distilling", 2, 0)
        reporter.advance(2, loss=0.25)
        if fails:
            raise RuntimeError
    assert "2/2" in file.getvalue() and "loss 0.250" in file.getvalue()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")  # the cursor
