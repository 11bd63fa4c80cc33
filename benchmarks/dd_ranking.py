"""A distilled CIFAR-10 by DD-Ranking's own package beside our judge (Li et al., 2025).

    python benchmarks/dd_ranking.py runs/systems/cifar10_10/rcig_0.npz --python PATH

PATH is an interpreter that has `ddranking` (its dependencies and those of this project cannot share
one). What DD-Ranking asks of a set with hard labels is how far it is above random images that have
the best of five rates, as the set has, by its ConvNet-3 with batch normalisation and CutMix; the
other half of its score wants a training on all images, which is left out. Its epochs are fewer than
its 300 to end here, and it is kept from choosing among them by test accuracy; the rate it does
choose so. Our judge trains on the same images with the same hard labels, and chooses nothing.
"""

import json
import pickle
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from _report import table, write

from bilevel_distillation import (
    Distillation,
    DistilledSet,
    EvaluationConfig,
    RunConfig,
    hold,
    judge,
    resolve,
)
from bilevel_distillation.data import ImageData, load

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""By which DD-Ranking standardises the channels of CIFAR-10."""


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        path: of the set, an .npz as `DistilledSet.save_npz` writes it.
        python: an interpreter that has ddranking.
        epochs: of each of DD-Ranking's trainings.
        runs: of its score, and networks of ours.
        width: of our judge's networks.
        steps: of their training.
    """

    path: tyro.conf.Positional[Path]
    python: Path
    epochs: int = 100
    runs: int = 2
    width: int = 32
    steps: int = 1000


def main(arguments: Arguments) -> None:
    data, distilled = load("cifar10"), DistilledSet.load_npz(arguments.path)
    told = ("method", "iterations", "width", "processor_seconds")
    kind = {"images": len(distilled.images)} | {name: distilled.provenance[name] for name in told}
    ours = by_our_judge(arguments, data, distilled)
    with tempfile.TemporaryDirectory() as folder:
        theirs = by_dd_ranking(arguments, data, distilled, Path(folder))
    settings = {name: getattr(arguments, name) for name in ("epochs", "runs", "width", "steps")}
    write("dd_ranking", {"set": kind, "settings": settings, "DD-Ranking": theirs, "ours": ours})
    rows = []
    for name, found in (("DD-Ranking", theirs), ("ours", ours)):
        means = {one: float(np.mean(found[one])) for one in ("set", "random")}
        rows.append([name, means["set"], means["random"], means["set"] - means["random"]])
    table(["judge", "set, %", "random, %", "improvement"], rows)


def by_dd_ranking(
    arguments: Arguments, data: ImageData, distilled: DistilledSet, folder: Path
) -> dict[str, list[float]]:
    classes = distilled.labels.shape[1]
    order = np.argsort(distilled.classes, kind="stable")
    images = (distilled.display_images[order] / 255 - MEAN) / DEVIATION
    np.save(folder / "images.npy", images.transpose(0, 3, 1, 2).astype(np.float32))
    np.save(folder / "labels.npy", distilled.classes[order].astype(np.int64))
    as_torchvision(data, folder)
    script = Path(__file__).with_name("_dd_ranking_score.py")
    ipc = len(images) // classes
    command = [arguments.python, script, folder, "--ipc", ipc, "--epochs", arguments.epochs,
               "--runs", arguments.runs]  # fmt: skip
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def as_torchvision(data: ImageData, folder: Path) -> None:
    """CIFAR-10 in the files that torchvision reads."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    splits = {
        f"data_batch_{i + 1}": (data.train_images[i::5], data.train_labels[i::5]) for i in range(5)
    } | {"test_batch": (data.test_images, data.test_labels)}
    for name, (images, labels) in splits.items():
        content = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1)}
        (batches / name).write_bytes(pickle.dumps(content | {"labels": labels.tolist()}))
    names = [f"class {i}" for i in range(data.classes)]
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def by_our_judge(
    arguments: Arguments, data: ImageData, distilled: DistilledSet
) -> dict[str, list[float]]:
    config = RunConfig(
        dataset="cifar10", ipc=len(distilled.images) // data.classes, method="random",
        evaluation=EvaluationConfig(width=arguments.width, repeats=arguments.runs,
                                    labels="hard", steps=arguments.steps),
    )  # fmt: skip
    chosen = Distillation(config, data).distilled()
    config = resolve(config, data.image_shape, data.classes)
    found = judge(config, hold(data, distilled.preprocessor), distilled)
    by_chance = judge(config, hold(data, chosen.preprocessor), chosen)
    return {"set": [100 * x for x in found], "random": [100 * x for x in by_chance]}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
