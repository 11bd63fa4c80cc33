"""The command line: `bilevel-distill run | sweep | evaluate | attack | export | report`."""

import logging
import sys
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NoReturn

import tyro
from rich.console import Console

from .._config import AttackConfig, EvaluateConfig, RunConfig
from ._screen import screens


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's distilled set in another form.

    Attributes:
        path: a run's folder.
        to: hf (a `datasets` folder with a card), npz (NumPy), or png (one picture an image).
        out: a new folder for it.
    """

    path: Annotated[Path, tyro.conf.Positional]
    to: Literal["hf", "npz", "png"] = "hf"
    out: Annotated[
        Path | None,
        tyro.conf.arg(help_behavior_hint="(default: dataset, npz or png in the run's folder)"),
    ] = None


@dataclass(frozen=True)
class ReportConfig:
    """Draw the page of a run: one HTML file, as far as the run is.

    Attributes:
        path: a run's folder.
        out: the file to write.
    """

    path: Annotated[Path, tyro.conf.Positional]
    out: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(default: report.html in the run's folder)")
    ] = None


@dataclass(frozen=True)
class RunCommand(RunConfig):
    """Settings of a run, and how it is started.

    Attributes:
        dry_run: only say what memory and time the run will take.
        distributed: this is one of several processes: start the same command in each. Outside of
            Slurm, Open MPI, Kubernetes and Cloud TPUs the environment variables
            JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and
            JAX_PROCESS_ID (from 0) say which.
    """

    dry_run: bool = False
    distributed: bool = False

    def config(self) -> RunConfig:
        return _without_more(self)


@dataclass(frozen=True)
class SweepCommand(RunConfig):
    """Settings of all runs, and what varies.

    Attributes:
        out: the sweep's folder; each run has its own in it, and one that is there goes on.
        vary: a setting and its values, such as seed=0,1,2; may be given several times, and all
            combinations are run.
        jobs: runs at a time, in processes of their own if more than one.
        cluster: the address of a Dask scheduler whose workers take the runs.
    """

    out: Path = Path("runs/sweep")
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    jobs: int = 1
    cluster: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: this machine)")] = (
        None
    )

    def config(self) -> RunConfig:
        return _without_more(self)


def _without_more(command: RunConfig) -> RunConfig:
    return RunConfig(**{f.name: getattr(command, f.name) for f in fields(RunConfig)})


Command = (
    Annotated[
        RunCommand,
        tyro.conf.subcommand(
            "run",
            description="Distil a data set into a folder; a run that the folder holds goes on.",
        ),
    ]
    | Annotated[
        SweepCommand,
        tyro.conf.subcommand(
            "sweep",
            description="Distil with all combinations of some settings' values, for one table.",
        ),
    ]
    | Annotated[
        EvaluateConfig,
        tyro.conf.subcommand(
            "evaluate",
            description="Train networks from scratch on a distilled set and test them on held-out "
            "images.",
        ),
    ]
    | Annotated[AttackConfig, tyro.conf.subcommand("attack")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[ReportConfig, tyro.conf.subcommand("report")]
)


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
            if isinstance(command, EvaluateConfig):
                raise SystemExit(1)


def _main(arguments: list[str]) -> Any:
    if arguments == ["--version"]:
        print(f"bilevel-distill {version('bilevel-distillation')}")
        return None
    command: Any = tyro.cli(
        Command,  # pyright: ignore
        prog="bilevel-distill",
        description="Condense a training set into a few synthetic images per class. "
        "(--version prints the version.)",
        args=arguments or ["--help"],
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # a log that cannot be shown
    console = Console()
    try:
        if isinstance(command, RunCommand):
            _run(command, console)
        elif isinstance(command, SweepCommand):
            _sweep(command, console)
        elif isinstance(command, EvaluateConfig):
            _evaluate(command, console)
        elif isinstance(command, AttackConfig):
            _attack(command, console)
        elif isinstance(command, ExportConfig):
            _export(command, console)
        else:
            _report(command, console)
    except (ValueError, OSError) as error:
        _leave(str(error), 2)
    except KeyboardInterrupt:
        _leave("interrupted.", 130)
    return command


def _run(command: RunCommand, console: Console) -> None:
    from .._artifacts import RunFolder
    from .._running import is_first, join_processes
    from ._console import ConsoleReporter, results_table
    from ._run import Interrupted, run

    if command.distributed:
        join_processes()
    config = command.config()
    if command.dry_run:
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


def _sweep(command: SweepCommand, console: Console) -> None:
    from .._artifacts import SweepFolder
    from ._console import ConsoleReporter, sweep_table
    from ._run import Interrupted
    from ._sweep import read_vary, sweep

    vary = read_vary(command.vary)
    with ConsoleReporter(console) as reporter:
        try:
            results = sweep(
                command.config(),
                vary,
                jobs=command.jobs,
                cluster=command.cluster,
                reporter=reporter,
            )
        except Interrupted as interruption:
            _leave(str(interruption), 130)
    console.print(sweep_table(results.settings, f"{command.out.name}: over seeds"))
    folder = SweepFolder(command.out)
    _say(console, f"all figures: {folder.results} and {folder.table}")
    failed = [name for name, one in results.runs.items() if one.error is not None]
    if failed:
        _leave(f"{len(failed)} of {len(results.runs)} runs failed: {'; '.join(failed)}.", 1)


def _evaluate(command: EvaluateConfig, console: Console) -> None:
    from .._artifacts import RunFolder
    from .._judging import reevaluate
    from ._console import ConsoleReporter, architectures_table, ranking_table, results_table

    with ConsoleReporter(console) as reporter:
        evaluations = reevaluate(command, reporter)
    name = command.path.resolve().name
    several = len(evaluations) > 1
    if several:
        console.print(architectures_table(evaluations, name))
        folder = RunFolder(command.path)
        if folder.config.exists():
            folder.keep_evaluations({(e.network, e.norm): e.accuracies for e in evaluations})
            _say(console, f"kept for the run's page: {folder.evaluations}")
    else:
        console.print(results_table(evaluations[0].accuracies, name))
    for one in evaluations:
        if one.ranking is not None:
            pair = f", {one.network}, norm {one.norm}" if several else ""
            console.print(ranking_table(one.ranking, name + pair))


def _attack(command: AttackConfig, console: Console) -> None:
    from .._artifacts import RunFolder
    from .._judging import attack
    from ._console import ConsoleReporter, attack_table

    with ConsoleReporter(console) as reporter:
        results = attack(command, reporter)
    console.print(attack_table(results, f"{command.path.resolve().name}: members or not"))
    _say(console, f"all figures: {RunFolder(command.path).attack}")


def _export(command: ExportConfig, console: Console) -> None:
    from .._artifacts import RunFolder, export

    folder = RunFolder(command.path)
    folder.read_config()
    if not folder.distilled.exists():
        raise ValueError(
            f"{str(command.path)!r} holds a run that is not finished: run it to its end first."
        )
    default = {"hf": folder.dataset.name, "npz": "npz", "png": "png"}[command.to]
    out = command.out or command.path / default
    written = export(folder.read_distilled(), out, command.to)
    _say(console, f"written: {written}")


def _report(command: ReportConfig, console: Console) -> None:
    from .._page import report

    _say(console, f"written: {report(command.path, command.out)}")


def _say(console: Console, message: str) -> None:
    """Print a message that holds paths: nothing in it is markup, and no line is broken."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _leave(sentence: str, status: int) -> NoReturn:
    print(f"bilevel-distill: {sentence}", file=sys.stderr)
    raise SystemExit(status) from None
