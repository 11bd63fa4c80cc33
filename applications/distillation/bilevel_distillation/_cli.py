"""The command line: `bilevel-distill run | evaluate | export`."""

import logging
import sys
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NoReturn

import tyro
from rich.console import Console

from ._config import EvaluateConfig, RunConfig


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
        return RunConfig(**{f.name: getattr(self, f.name) for f in fields(RunConfig)})


Command = (
    Annotated[
        RunCommand,
        tyro.conf.subcommand(
            "run",
            description="Distil a data set into a folder; a run that the folder holds goes on.",
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
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake ends with one sentence and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"bilevel-distill {version('bilevel-distillation')}")
        return
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
    console = Console()
    try:
        if isinstance(command, RunCommand):
            _run(command, console)
        elif isinstance(command, EvaluateConfig):
            _evaluate(command, console)
        else:
            _export(command, console)
    except (ValueError, OSError) as error:
        _leave(str(error), 2)
    except KeyboardInterrupt:
        _leave("interrupted.", 130)


def _run(command: RunCommand, console: Console) -> None:
    from ._console import ConsoleReporter, results_table
    from ._devices import is_first, join_processes
    from ._folder import RunFolder
    from ._run import Interrupted, run

    if command.distributed:
        join_processes()
    config = command.config()
    if command.dry_run:
        from ._estimate import estimate

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


def _evaluate(command: EvaluateConfig, console: Console) -> None:
    from ._console import ConsoleReporter, results_table
    from ._reevaluate import reevaluate

    with ConsoleReporter(console) as reporter:
        results = reevaluate(command, reporter)
    console.print(results_table(results, command.path.resolve().name))


def _export(command: ExportConfig, console: Console) -> None:
    from ._distilled import DistilledSet
    from ._export import export
    from ._folder import RunFolder

    folder = RunFolder(command.path)
    folder.read_config()
    if not folder.distilled.exists():
        raise ValueError(
            f"{str(command.path)!r} holds a run that is not finished: run it to its end first."
        )
    default = {"hf": folder.dataset.name, "npz": "npz", "png": "png"}[command.to]
    out = command.out or command.path / default
    written = export(DistilledSet.load_npz(folder.distilled), out, command.to)
    _say(console, f"written: {written}")


def _say(console: Console, message: str) -> None:
    """Print a message that holds paths: nothing in it is markup, and no line is broken."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _leave(sentence: str, status: int) -> NoReturn:
    print(f"bilevel-distill: {sentence}", file=sys.stderr)
    raise SystemExit(status) from None
