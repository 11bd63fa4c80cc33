"""The end of a run, when its results are safe: pictures, the export, the page."""

import numpy as np

from .._artifacts import Accuracies, DistilledSet, RunFolder
from .._running import Reporter


def missing(folder: RunFolder) -> list[str]:
    """Which pictures, exports and pages a finished run still lacks."""
    paths = (folder.images, folder.curve, folder.dataset, folder.report)
    return [path.name for path in paths if not path.exists()]


def finish(
    folder: RunFolder,
    distilled: DistilledSet,
    results: Accuracies,
    names: list[str],
    reporter: Reporter,
) -> None:
    """Draw the files of these names. A failure is reported, and ends nothing."""
    steps = {
        folder.images.name: ("picture of the images", "the same command", _draw_images),
        folder.curve.name: ("learning curve", "the same command", _draw_curve),
        folder.dataset.name: (
            "folder for `datasets`", f"`bilevel-distill export {folder.path}`", _export),
        folder.report.name: ("page", f"`bilevel-distill report {folder.path}`", _draw_page),
    }  # fmt: skip
    for name, (what, remedy, draw) in steps.items():
        if name not in names:
            continue
        try:
            draw(folder, distilled, results)
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            reporter.warn(
                f"the {what} could not be drawn ({type(error).__name__}: {reason}): the run is "
                f"whole, and {remedy} tries again."
            )


def _draw_images(folder: RunFolder, distilled: DistilledSet, _: Accuracies) -> None:
    from .._artifacts import draw_images

    draw_images(distilled, folder.images)


def _draw_curve(folder: RunFolder, _: DistilledSet, results: Accuracies) -> None:
    from .._artifacts import draw_learning_curve

    records = folder.read_metrics()
    last = {
        "iteration": folder.read_config().iterations,
        "seconds": max((record.get("seconds", 0.0) for record in records), default=0.0),
        "test_accuracy": float(np.mean(results.distilled)),
        "test_accuracy_std": float(np.std(results.distilled)),
    }
    draw_learning_curve([*records, last], folder.curve)


def _export(folder: RunFolder, distilled: DistilledSet, results: Accuracies) -> None:
    from .._artifacts import export_hf, judged_sentence

    said = judged_sentence(folder.read_config(), results)
    export_hf(distilled, folder.dataset, preprocess=folder.preprocess, judged=said)


def _draw_page(folder: RunFolder, _: DistilledSet, __: Accuracies) -> None:
    from .._page import report

    report(folder.path)
