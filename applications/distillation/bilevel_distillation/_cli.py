"""The command line: `bilevel-distill run | evaluate | export`."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ._config import EvaluateConfig, RunConfig


@dataclass(frozen=True)
class Export:
    """Write a run's distilled set in another form.

    Attributes:
        path: a run's folder.
        to: hf (a `datasets` folder with a card), npz, or png (one file an image).
        out: where to; None: beside the run's other files.
    """

    path: Annotated[Path, tyro.conf.Positional]
    to: Literal["hf", "npz", "png"] = "hf"
    out: Path | None = None


Command = (
    Annotated[RunConfig, tyro.conf.subcommand("run", description="Distil a data set.")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake ends with one sentence and status 2."""
    command = tyro.cli(
        Command,  # pyright: ignore
        prog="bilevel-distill",
        description="Condense a training set into a few synthetic images per class.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    console = Console()
    try:
        if isinstance(command, RunConfig):
            _run(command, console)
        elif isinstance(command, EvaluateConfig):
            _evaluate(command, console)
        else:
            _export(command, console)
    except (ValueError, FileNotFoundError) as error:
        print(f"bilevel-distill: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(config: RunConfig, console: Console) -> None:
    from ._console import ConsoleReporter, results_table
    from ._folder import RunFolder
    from ._run import Interrupted, run

    try:
        results = run(config, ConsoleReporter(console))
    except Interrupted as interruption:
        print(f"bilevel-distill: {interruption}", file=sys.stderr)
        raise SystemExit(130) from None
    title = f"{config.dataset}, {config.ipc} per class, {config.method}"
    console.print(results_table(results, title))
    folder = RunFolder(config.out)
    console.print(f"pictures: {folder.images} and {folder.curve}", soft_wrap=True)
    console.print(f"the distilled set: {folder.dataset} (datasets) and {folder.distilled}",
                  soft_wrap=True)  # fmt: skip


def _evaluate(command: EvaluateConfig, console: Console) -> None:
    from ._console import ConsoleReporter, results_table
    from ._reevaluate import reevaluate

    results = reevaluate(command, ConsoleReporter(console))
    console.print(results_table(results, str(command.path)))


def _export(command: Export, console: Console) -> None:
    from ._distilled import DistilledSet
    from ._export import export
    from ._folder import RunFolder

    folder = RunFolder(command.path)
    folder.read_config()
    if not folder.distilled.exists():
        raise ValueError(
            f"{str(command.path)!r} holds a run that is not finished: run it to its end first."
        )
    default = {"hf": "dataset", "npz": "export.npz", "png": "png"}[command.to]
    out = command.out or command.path / default
    written = export(DistilledSet.load_npz(folder.distilled), out, command.to)
    console.print(f"written: {written}", soft_wrap=True)
