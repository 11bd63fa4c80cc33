"""What a run's folder says, gathered and put into the page."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .._artifacts import (
    Accuracies,
    DistilledSet,
    RunFolder,
    Snapshot,
    has,
    in_words,
    one_line,
    own_version,
    percent,
    read_bytes,
    spread,
    write_whole,
)
from .._config import RunConfig, resolve
from ._images import make_gallery
from ._labels import show_labels
from ._plots import learning_plots, solver_plots
from ._snippets import snippets

_FOOTER = b"<footer>bilevel-distillation"


@dataclass(frozen=True)
class Accuracy:
    """Test accuracies in percent: their mean, their deviation if there are several, and each."""

    mean: float
    deviation: float | None
    each: list[float]


@dataclass(frozen=True)
class Row:
    """Networks of one kind, trained on the distilled set and on random subsets."""

    network: str
    distilled: Accuracy
    random_subset: Accuracy | None

    @property
    def difference(self) -> float | None:
        """In percentage points, of the means as they are shown, so that they add up."""
        if self.random_subset is None:
            return None
        return round(self.distilled.mean, 1) - round(self.random_subset.mean, 1)


@dataclass(frozen=True)
class Setting:
    """A setting, and its default where it has another value."""

    name: str
    value: str
    default: str | None


def report(run_folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a run: one HTML file that loads nothing else, to read or to print.

    It shows the images over time, the learned labels, the curves, how well the inner problem was
    solved, the results and all settings. A run that is not finished is shown as far as it is.

    Args:
        run_folder: a run's folder.
        out: the file to write; by default `report.html` in the run's folder.

    Returns:
        The file.

    Raises:
        ValueError: if the folder holds no run, a file in it is damaged, or `out` is a folder or
            a file that is no page of a run.
    """
    folder = RunFolder(Path(run_folder))
    config = folder.read_config()
    path = folder.report if out is None else Path(out)
    if path.is_dir():
        raise ValueError(f"out={str(path)!r} is a folder: give a file, e.g. {path / 'run.html'}.")
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _template().render(**_contents(folder, config)))
    return path


def _check_replaceable(path: Path) -> None:
    """Raise where a file would be lost that is no page of a run."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or _FOOTER not in read_bytes(path):
        raise ValueError(
            f"out={str(path)!r} is {'a link' if path.is_symlink() else 'no page of a run'}, which "
            "is not replaced: move it away, or give another --out."
        )


def _template():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("bilevel_distillation", "_page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")


def _contents(folder: RunFolder, config: RunConfig) -> dict[str, Any]:
    records = folder.read_metrics()
    distilled = folder.read_distilled() if folder.distilled.exists() else None
    history = folder.history.read()
    done = max([r["iteration"] for r in records] + [one.iteration for one in history], default=0)
    if distilled is not None:  # the whole of what the last snapshot has at most 100 images of
        iterations = distilled.provenance.get("iterations")
        done = max(done, iterations if type(iterations) is int else 0)
        history = [one for one in history if one.iteration < done]
        history.append(Snapshot.of(distilled, done))
    rows = _results(folder, config)
    shape, classes = _sizes(folder, history)
    curve = records
    if rows:  # the last point of the learning curve is the result itself
        own = rows[0].distilled
        last = {"test_accuracy": own.mean / 100, "test_accuracy_std": (own.deviation or 0) / 100}
        curve = [*records, {"iteration": done} | last]
    subset = rows[0].random_subset if rows else None
    return {
        "title": f"{one_line(PurePath(config.dataset).name)}, distilled",
        "config": config,
        "total": config.iterations,
        "done": done,
        "duration": _duration(records),
        "finished": bool(rows),
        "rows": rows,
        "latest": next((r for r in reversed(records) if has(r, "test_accuracy")), None),
        "shape": shape,
        "classes": classes,
        "gallery": make_gallery(history),
        "labels": _labels(history, distilled),
        "learning": learning_plots(curve, subset.mean / 100 if subset else None),
        "solver": solver_plots(records, config),
        "attack": _attack(folder),
        "by_cholesky": _by_cholesky(records),
        "snippets": snippets(distilled) if distilled is not None and rows else [],
        "settings": _settings(config, shape, classes),
        "version": own_version(),
    }


def _by_cholesky(records: Sequence[Mapping[str, Any]]) -> bool:
    steps = [record["adjoint_steps"] for record in records if has(record, "adjoint_steps")]
    return bool(steps) and not any(steps)


def _labels(history: Sequence[Snapshot], distilled: DistilledSet | None):
    if distilled is not None:
        return show_labels(distilled.labels, distilled.classes, distilled.class_names)
    if history:
        last = history[-1]
        return show_labels(last.labels, last.classes, last.class_names)
    return None


def _sizes(
    folder: RunFolder, history: Sequence[Snapshot]
) -> tuple[tuple[int, int, int] | None, int | None]:
    """The shape of an image and the number of classes, as far as they are known."""
    if history:
        height, width, channels = history[-1].images.shape[1:]
        return (height, width, channels), len(history[-1].class_names)
    preprocessor = folder.read_preprocessor()
    return (preprocessor.image_shape if preprocessor else None), None


def _results(folder: RunFolder, config: RunConfig) -> list[Row]:
    """The run's own result, and those of other networks where there are any."""
    results = folder.read_results()
    if results is None:
        return []
    own = config.evaluation
    rows = [_row(f"{own.network}, norm: {own.norm or config.norm}", results)]
    for judges, accuracies in folder.read_evaluations().items():
        rows.append(_row(str(judges), accuracies))
    return rows


def _attack(folder: RunFolder) -> dict[str, Any] | None:
    """What membership inference found: networks, and rows of figures for each training set."""
    results = folder.read_attack()
    if results is None:
        return None
    kinds = [results.of(kind) for kind in results.kinds]
    if not kinds:  # an attack that has only begun
        return None
    rows = [
        (in_words(name), [spread([one.auc[name] for one in kind]) for kind in kinds])
        for name in kinds[0][0].auc
    ]
    accuracies = [percent([one.test_accuracy for one in kind]) for kind in kinds]
    return {
        "kinds": [kind.replace("_", " ") for kind in results.kinds],
        "rows": [*rows, ("test accuracy", accuracies)],
        "networks": [len(kind) for kind in kinds],
        "members": results.settings.members,
    }


def _row(network: str, found: Accuracies) -> Row:
    subset = found.random_subset
    return Row(network, _accuracy(found.distilled), _accuracy(subset) if subset else None)


def _accuracy(fractions: Sequence[float]) -> Accuracy:
    percents = [100 * float(fraction) for fraction in fractions]
    deviation = float(np.std(percents)) if len(percents) > 1 else None
    return Accuracy(float(np.mean(percents)), deviation, percents)


def _duration(records: Sequence[Mapping[str, Any]]) -> str:
    seconds = max((record.get("seconds", 0.0) for record in records), default=0.0)
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _settings(
    config: RunConfig, shape: tuple[int, int, int] | None, classes: int | None
) -> list[Setting]:
    standard = RunConfig(dataset=config.dataset, ipc=config.ipc)
    if shape is not None and classes is not None:
        standard = resolve(standard, shape, classes)
    taken, usual = _flat(config), _flat(standard)
    usual |= {name: _flat(RunConfig())[name] for name in ("dataset", "ipc")}
    usual["out"] = taken["out"]
    unknown = {name for name, value in _flat(RunConfig()).items() if value is None}
    return [
        Setting(
            name,
            _shown(value),
            None
            if value == usual[name] or (usual[name] is None and name in unknown and classes is None)
            else _shown(usual[name]),
        )
        for name, value in taken.items()
    ]


def _flat(config: RunConfig) -> dict[str, Any]:
    values = asdict(config)
    nested = values.pop("evaluation")
    return values | {f"evaluation.{name}": value for name, value in nested.items()}


def _shown(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
