"""The command line: what each command does, says, and how a mistake ends."""

import contextlib
import io
import logging
import sys
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, NoReturn

import tyro
from rich.console import Console

from ._commands import (
    AttackCommand,
    Command,
    DatasetsConfig,
    EvaluateCommand,
    ExportConfig,
    ReportConfig,
    RunCommand,
    SweepCommand,
    examples_of,
)
from ._screen import screens
from ._speech import in_flags, out_of_box

COMMANDS = ("run", "sweep", "evaluate", "attack", "export", "report", "datasets")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake ends with one sentence and status 2.

    A screen that cannot be written to ends nothing; of `evaluate`, whose figures may be nowhere
    else, it is status 1.
    """
    with screens() as screen:
        command = _main(sys.argv[1:] if arguments is None else arguments)
        screen.flush()
        if isinstance(screen.lost, BrokenPipeError):  # nobody wants to read on, as with `head`
            return
        if screen.lost is not None:
            print(f"bilevel-distill: not all could be shown ({screen.lost}).", file=sys.stderr)
            if isinstance(command, EvaluateCommand):
                raise SystemExit(1)


def _main(arguments: list[str]) -> Any:
    if arguments == ["--version"]:
        print(f"bilevel-distill {version('bilevel-distillation')}")
        return None
    command = _read(arguments or ["--help"])
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # a log that cannot be shown
    console = Console()
    try:
        if isinstance(command, RunCommand):
            _run(command, console)
        elif isinstance(command, SweepCommand):
            _sweep(command, console)
        elif isinstance(command, EvaluateCommand):
            _evaluate(command, console)
        elif isinstance(command, AttackCommand):
            _attack(command, console)
        elif isinstance(command, ExportConfig):
            _export(command, console)
        elif isinstance(command, DatasetsConfig):
            _datasets(console)
        else:
            _report(command, console)
    except (ValueError, OSError) as error:
        _leave(in_flags(str(error), arguments[0]), 2)
    except KeyboardInterrupt:
        _leave("interrupted.", 130)
    return command


def _read(arguments: list[str]) -> Any:
    asks = [word for word in arguments if word in ("-h", "--help")]
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes):
            return tyro.cli(
                Command,
                prog="bilevel-distill",
                description="Condense a training set into a few synthetic images per class. "
                "(--version prints the version.)",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
            )
    except SystemExit as ending:
        if asks and not ending.code:
            print(f"\n{examples_of(arguments)}")
        if ending.code:
            known = arguments[0] if arguments[0] in COMMANDS else ""
            _leave(out_of_box(boxes.getvalue(), known), 2)
        raise


def _run(command: Any, console: Console) -> None:
    from .._artifacts import RunFolder
    from .._running import is_first, join_processes
    from ._console import ConsoleReporter, results_table
    from ._run import Interrupted, run

    config = command.config()
    if command.machine.distributed:
        join_processes()
    if command.machine.dry_run:
        from .._engine import estimate

        _say(console, f"{estimate(config)}.")
        return
    with ConsoleReporter(console) as reporter:
        try:
            results = run(config, reporter)
        except Interrupted as interruption:
            _leave(str(interruption), 130)
    if not is_first():
        return
    name = PurePath(config.dataset).name if Path(config.dataset).is_dir() else config.dataset
    console.print(results_table(results, f"{name}, {config.ipc} per class, {config.method}"))
    folder = RunFolder(config.out)
    _say(console, f"pictures: {folder.images} and {folder.curve}")
    _say(console, f"the distilled set: {folder.dataset} (datasets) and {folder.distilled}")
    if folder.report.exists():
        _say(console, f"the run on a page: {folder.report}")


def _sweep(command: Any, console: Console) -> None:
    from .._artifacts import SweepFolder
    from ._console import ConsoleReporter, sweep_table
    from ._run import Interrupted
    from ._sweep import read_vary, sweep

    config, how = command.config(), command.sweep
    vary = read_vary(how.vary)
    with ConsoleReporter(console) as reporter:
        try:
            results = sweep(
                config,
                vary,
                jobs=how.jobs,
                cluster=how.cluster,
                reporter=reporter,
            )
        except Interrupted as interruption:
            _leave(str(interruption), 130)
    console.print(sweep_table(results.settings, f"{config.out.name}: over seeds"))
    folder = SweepFolder(config.out)
    _say(console, f"all figures: {folder.results} and {folder.table}")
    failed = [name for name, one in results.runs.items() if one.error is not None]
    if failed:
        _leave(f"{len(failed)} of {len(results.runs)} runs failed: {'; '.join(failed)}.", 1)


def _evaluate(command: Any, console: Console) -> None:
    from .._artifacts import RunFolder
    from .._judging import reevaluate
    from ._console import (
        ConsoleReporter,
        architectures_table,
        ranking_table,
        results_table,
        sets_table,
    )

    asked = command.config()
    with ConsoleReporter(console) as reporter:
        evaluations = reevaluate(asked, reporter)
    name = asked.path.resolve().name
    several = len(evaluations) > 1 or bool(asked.judge)
    if several:
        console.print(architectures_table(evaluations, name))
        folder = RunFolder(asked.path)
        if folder.config.exists() and not asked.also:
            folder.keep_evaluations({e.judges: e.accuracies for e in evaluations})
            _say(console, f"kept for the run's page: {folder.evaluations}")
    else:
        console.print(results_table(evaluations[0].accuracies, name))
    if asked.also or asked.evaluation.select:
        console.print(sets_table(evaluations))
    for one in evaluations[0].sets:
        if one.cost is not None:
            _say(console, f"made in {one.cost}: {one.path}")
    for one in evaluations:
        if one.ranking is not None:
            pair = f", {one.network}, norm {one.norm}" if several else ""
            console.print(ranking_table(one.ranking, name + pair))


def _attack(command: Any, console: Console) -> None:
    from .._artifacts import RunFolder
    from .._judging import attack
    from ._console import ConsoleReporter, attack_table

    asked = command.config()
    with ConsoleReporter(console) as reporter:
        results = attack(asked, reporter)
    console.print(attack_table(results, f"{command.path.resolve().name}: members or not"))
    _say(console, f"all figures: {RunFolder(command.path).attack}")


def _export(command: ExportConfig, console: Console) -> None:
    from .._artifacts import RunFolder, export, judged

    folder = RunFolder(command.path)
    folder.read_config()
    if not folder.distilled.exists():
        raise ValueError(
            f"{str(command.path)!r} holds a run that is not finished: run it to its end first."
        )
    default = {"hf": folder.dataset.name, "npz": "npz", "png": "png"}[command.to]
    out = command.out or command.path / default
    written = export(folder.read_distilled(), out, command.to, judged=judged(folder))
    _say(console, f"written: {written}")


def _report(command: ReportConfig, console: Console) -> None:
    from .._page import report

    _say(console, f"written: {report(command.path, command.out)}")


def _datasets(console: Console) -> None:
    from ._datasets import datasets_table

    console.print(datasets_table())
    _say(console, "and any hub name or local folder of images: --dataset NAME_OR_FOLDER")


def _say(console: Console, message: str) -> None:
    """Print a message that holds paths: nothing in it is markup, and no line is broken."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _leave(sentence: str, status: int) -> NoReturn:
    print(f"bilevel-distill: {sentence}", file=sys.stderr)
    raise SystemExit(status) from None
