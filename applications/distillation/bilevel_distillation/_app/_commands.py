"""The commands and their flags, in groups; each is read as it stands, and checked afterwards, so
that a mistake is said in one place and in the words of the command line.
"""

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, make_dataclass
from dataclasses import field as plain_field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from .._config import AttackConfig, EvaluateConfig, EvaluationConfig, RunConfig

Path_ = Annotated[Path, tyro.conf.Positional]

DATA = ("dataset", "samples", "held_out", "resolution", "zca", "flip", "image_column",
        "label_column", "train_split", "test_split")  # fmt: skip
SOLVE = ("solve", "linear_solver", "rtol", "adjoint_rtol", "cg_max_steps", "adam_steps",
         "ridge_rate", "float64", "n_subset", "clip_implicit")  # fmt: skip
NETWORK = ("width", "depth", "padding", "norm", "smooth", "pool_size", "pool_rate", "pool_steps",
           "pool_max_steps")  # fmt: skip
MACHINE = ("out", "devices", "storage", "microbatch", "remat", "precision", "curve_points",
           "checkpoint_seconds")  # fmt: skip
TITLES = {
    "data": "What is distilled.",
    "method": "How: what moves the distilled images, and how far.",
    "solve": "How the inner problem and its adjoint are solved.",
    "network": "The networks that distil.",
    "evaluation": "The judge: networks trained from scratch on the distilled images.",
    "machine": "Where it runs, and where its files go.",
}


def attributes_of(cls: type) -> dict[str, str]:
    """What the docstring says of each attribute."""
    text = inspect.getdoc(cls) or ""
    _, _, block = text.partition("Attributes:\n")
    block = textwrap.dedent(re.split(r"\n(?=\S)", block)[0])
    found = re.split(r"^(\w+): ", block, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(said.split()) for name, said in zip(found[::2], found[1::2], strict=True)
    }


def flags_of(cls: type, names: Iterable[str], title: str, **more: tuple[Any, Any, str]) -> type:
    """A class with some fields of another, unchecked; `more`: type, default and words of others."""
    hints, said = get_type_hints(cls, include_extras=True), attributes_of(cls)
    parts, lines = [], []
    known = {one.name: one for one in fields(cls)}
    for name in names:
        one = known[name]
        if one.default_factory is not MISSING:
            held = plain_field(default_factory=one.default_factory)
        else:
            held = plain_field() if one.default is MISSING else plain_field(default=one.default)
        parts.append((name, hints[name], held))
        lines.append(f"    {name}: {said[name]}")
    for name, (kind, default, words) in more.items():
        parts.append((name, kind, plain_field(default=default)))
        lines.append(f"    {name}: {words}")
    made = make_dataclass("Flags", parts, frozen=True)
    made.__doc__ = "\n".join([title, "", "Attributes:", *lines])
    return made


def _groups(**machine: tuple[Any, Any, str]) -> list[tuple[str, Any]]:
    """The settings of a run in groups; one that belongs to no other is of the method."""
    named = {"data": DATA, "solve": SOLVE, "network": NETWORK, "machine": MACHINE}
    placed = {name for names in named.values() for name in names} | {"evaluation"}
    named["method"] = tuple(one.name for one in fields(RunConfig) if one.name not in placed)
    made: list[tuple[str, Any]] = []
    for group, title in TITLES.items():
        if group == "evaluation":
            names = [one.name for one in fields(EvaluationConfig)]
            made.append((group, flags_of(EvaluationConfig, names, title)))
            continue
        more = machine if group == "machine" else {}
        names = [name for name in named[group] if name not in more]
        flags = flags_of(RunConfig, names, title, **more)
        made.append((group, Annotated[flags, tyro.conf.OmitArgPrefixes]))
    return made


class _OfARun:
    """A command that takes the settings of a run."""

    def config(self) -> RunConfig:
        """The settings.

        Raises:
            ValueError: they cannot work.
        """
        judge = EvaluationConfig(**vars(getattr(self, "evaluation")))  # noqa: B009
        known = {one.name for one in fields(RunConfig)}
        given: dict[str, Any] = {"evaluation": judge}
        for group in TITLES:
            if group != "evaluation":
                values = vars(getattr(self, group))
                given |= {name: value for name, value in values.items() if name in known}
        return RunConfig(**given)


RunCommand: Any = make_dataclass(
    "RunCommand",
    _groups(
        dry_run=(bool, False, "only say what memory and time the run will take."),
        distributed=(
            bool,
            False,
            "this is one of several processes: start the same command in each. Outside of Slurm, "
            "Open MPI, Kubernetes and Cloud TPUs the environment variables "
            "JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID (from 0) say which.",
        ),
    ),
    bases=(_OfARun,),
    frozen=True,
)


@dataclass(frozen=True)
class SweepFlags:
    """What varies, and how the runs are shared out.

    Attributes:
        vary: a setting and its values, such as seed=0,1,2; may be given several times, and all
            combinations are run.
        jobs: runs at a time, in processes of their own if more than one.
        cluster: the address of a Dask scheduler whose workers take the runs.
    """

    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    jobs: int = 1
    cluster: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: this machine)")] = (
        None
    )


SweepCommand: Any = make_dataclass(
    "SweepCommand",
    [
        ("sweep", Annotated[SweepFlags, tyro.conf.OmitArgPrefixes]),
        *_groups(
            out=(
                Path,
                Path("runs/sweep"),
                "the sweep's folder; each run has its own in it, and one that is there goes on.",
            )
        ),
    ],
    bases=(_OfARun,),
    frozen=True,
)


class _Evaluate:
    def config(self) -> EvaluateConfig:
        given = dict(vars(getattr(self, "set"))) | dict(vars(getattr(self, "ranking")))  # noqa: B009
        recipe = _recipe(vars(getattr(self, "judge")))  # noqa: B009
        return EvaluateConfig(
            **given, **{name: recipe.pop(name) for name in _OF_NETWORKS},
            evaluation=_Plain(**recipe),
        )  # fmt: skip


def _recipe(flags: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flags)


class _Plain(EvaluationConfig):
    """An `EvaluationConfig` whose names have no prefix, as the flags of `evaluate` have none."""

    prefix = ""


_OF_SET = ("path", "also", "dataset", "padding", "flip", "zca")
_OF_RANKING = ("baseline", "ranking", "full_steps")
_OF_NETWORKS = ("judge", "network", "norm", "depth", "labels", "recipe", "seed")


def _judge() -> type:
    known, own = fields(EvaluationConfig), get_type_hints(EvaluationConfig, include_extras=True)
    said = attributes_of(EvaluationConfig)
    more = {
        one.name: (own[one.name], one.default, said[one.name])
        for one in known
        if one.name not in _OF_NETWORKS
    }
    return flags_of(EvaluateConfig, _OF_NETWORKS, "The judge: networks and their training.", **more)


EvaluateCommand: Any = make_dataclass(
    "EvaluateCommand",
    [
        (
            name,
            Annotated[made, tyro.conf.OmitArgPrefixes],
        )
        for name, made in (
            ("set", flags_of(EvaluateConfig, _OF_SET, "What is judged, and on what.")),
            ("judge", _judge()),
            ("ranking", flags_of(EvaluateConfig, _OF_RANKING, "Beside what.")),
        )
    ],
    bases=(_Evaluate,),
    frozen=True,
)


class _Attack:
    def config(self) -> AttackConfig:
        return AttackConfig(**vars(self))


AttackCommand: Any = make_dataclass(
    "AttackCommand",
    [
        (one.name, get_type_hints(AttackConfig, include_extras=True)[one.name],
         plain_field() if one.default is MISSING else plain_field(default=one.default))
        for one in fields(AttackConfig)
    ],
    bases=(_Attack,),
    frozen=True,
)  # fmt: skip
AttackCommand.__doc__ = AttackConfig.__doc__


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's distilled set in another form.

    Attributes:
        path: a run's folder.
        to: hf (a `datasets` folder with a card), npz (NumPy), or png (one picture an image).
        out: a new folder for it.
    """

    path: Path_
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

    path: Path_
    out: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(default: report.html in the run's folder)")
    ] = None


@dataclass(frozen=True)
class DatasetsConfig:
    """List the data sets that have a name of their own, and which are on this machine."""


def _command(name: str, kind: Any, description: str | None = None) -> Any:
    return Annotated[kind, tyro.conf.subcommand(name, description=description)]


Command: Any = (
    _command("run", RunCommand, "Distil a data set into a folder; a run that it holds goes on.")
    | _command(
        "sweep", SweepCommand, "Distil with all combinations of some settings, for one table."
    )
    | _command(
        "evaluate",
        EvaluateCommand,
        "Train networks from scratch on a distilled set and test them on held-out images.",
    )
    | _command("attack", AttackCommand)
    | _command("export", ExportConfig)
    | _command("report", ReportConfig)
    | _command("datasets", DatasetsConfig)
)

EXAMPLES = {
    "": [
        ("bilevel-distill run --dataset digits --out runs/digits", "ten images of ten digits"),
        ("bilevel-distill evaluate runs/digits --network convnet resnet18", "who else learns it"),
        ("bilevel-distill run --help", "all settings, in groups"),
    ],
    "run": [
        ("bilevel-distill run --dataset digits --out runs/digits", "less than a minute"),
        ("bilevel-distill run --dataset cifar10 --ipc 10 --dry-run", "what it would take"),
        ("bilevel-distill run --dataset photos --resolution 32 --out runs/photos",
         "a folder of your own, one subfolder a class"),
    ],
    "sweep": [
        ("bilevel-distill sweep --vary seed=0,1,2 --dataset mnist", "mean and deviation"),
        ("bilevel-distill sweep --vary seed=0,1 --vary ipc=1,10 --jobs 2", "four, two at once"),
        ("bilevel-distill sweep --vary method=rcig,frepo --out runs/methods", "a table of methods"),
    ],
    "evaluate": [
        ("bilevel-distill evaluate runs/digits", "as the run was judged"),
        ("bilevel-distill evaluate runs/digits --network convnet resnet18 --norm none batch",
         "a table of networks"),
        ("bilevel-distill evaluate runs/digits --judge paper wide-instance --labels soft hard",
         "the two networks of the literature"),
        ("bilevel-distill evaluate set.npz --dataset cifar10", "a set made elsewhere"),
    ],
    "attack": [
        ("bilevel-distill attack runs/digits", "five attackers"),
        ("bilevel-distill attack runs/digits --repeats 2 --steps 1000", "sooner"),
        ("bilevel-distill attack runs/digits --seed 1", "other networks"),
    ],
    "export": [
        ("bilevel-distill export runs/digits", "a datasets folder with a card"),
        ("bilevel-distill export runs/digits --to npz --out digits", "NumPy"),
        ("bilevel-distill export runs/digits --to png", "pictures"),
    ],
    "report": [
        ("bilevel-distill report runs/digits", "report.html in the run's folder"),
        ("bilevel-distill report runs/digits --out page.html", "elsewhere"),
        ("bilevel-distill report runs/sweep/a", "of a run of a sweep"),
    ],
    "datasets": [
        ("bilevel-distill datasets", "all of them"),
        ("bilevel-distill run --dataset mnist --dry-run", "what one would take"),
        ("bilevel-distill run --dataset photos --resolution 32", "one of your own"),
    ],
}  # fmt: skip


def examples_of(arguments: list[str]) -> str:
    """The end of a command's help."""
    name = arguments[0] if arguments and arguments[0] in EXAMPLES else ""
    width = max(len(line) for line, _ in EXAMPLES[name])
    rows = [f"  {line.ljust(width)}  # {what}" for line, what in EXAMPLES[name]]
    return "\n".join(["Examples:", *rows, *([_COMPLETION] if not name else [])])


_COMPLETION = (
    "\nCompletion in a shell: bilevel-distill --tyro-print-completion bash >FILE "
    "(or zsh, tcsh), and `source FILE`."
)
