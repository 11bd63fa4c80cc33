"""Learning tasks one after the other with a small memory: distilled images or chosen ones.

    python examples/continual_learning.py --dataset mnist
    python examples/continual_learning.py --dataset cifar10 --memories rcig random --seeds 0

The classes come two at a time, and the images of a task are gone when the next one begins: what
stays is a memory of a few images per class. After each task a fresh network is trained on the
memory alone (as in GDumb, Prabhu et al., 2020) and tested on held-out images of all classes seen so
far.

All memories have the same bytes. A task is distilled when it is there, into `ipc` images per class
of 16-bit numbers and labels of 16 bits; chosen images are PNG files with a byte for the label, as
many as there is room for. Networks take as many steps as the evaluation of a set of that size:
1,000 for ten images in all, 2,000 for more.

MNIST and CIFAR-10 are read from the folder that BILEVEL_DATA names, or else from the hub; digits
need nothing.
"""

import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from bilevel_distillation import (
    Distillation,
    DistilledSet,
    EvaluationConfig,
    Held,
    RunConfig,
    hold,
    judge,
    resolve,
)
from bilevel_distillation.data import ImageData, Preprocessor, load

CHOSEN = ("random", "herding", "k-center", "el2n")


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        dataset: whose classes come in tasks.
        memories: methods that distil, or choose real images (random, herding, k-center, el2n).
        classes: of each task.
        ipc: distilled images per class that the memory keeps.
        iterations: of distillation, for each task.
        width: of the networks.
        batch: real images in a meta-iteration.
        networks: trained on each memory after each task.
        seeds: of everything random, the order of the classes included.
        save: also write the figures to this file, as JSON.
    """

    dataset: str = "mnist"
    memories: tuple[str, ...] = ("rcig", "frepo", "dm", "herding", "random")
    classes: int = 2
    ipc: int = 1
    iterations: int = 100
    width: int = 16
    batch: int = 256
    networks: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
    save: Path | None = None


@dataclass
class Memory:
    """What is kept of the tasks so far: images as networks take them, labels among all classes."""

    images: list[np.ndarray]
    labels: list[np.ndarray]


def main(arguments: Arguments) -> dict[str, np.ndarray]:
    data = same_counts(load(arguments.dataset))
    found = [learn(arguments, data, seed) for seed in arguments.seeds]
    accuracies = {name: 100 * np.array([one[name] for one in found]) for name in found[0]}
    print(f"\n{'classes seen':18}" + "".join(f"{n:>14}" for n in seen(arguments, data)))
    for name, of in accuracies.items():
        cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(of.mean(0), of.std(0), strict=True)]
        print(f"{name:18}" + "".join(f"{cell:>14}" for cell in cells))
    if arguments.save is not None:
        save(arguments.save, arguments, data, accuracies)
    return accuracies


def save(
    path: Path, arguments: Arguments, data: ImageData, accuracies: dict[str, np.ndarray]
) -> None:
    asked: dict[str, Any] = asdict(arguments)
    del asked["save"]
    tasks = [task for seed in arguments.seeds for task in tasks_of(arguments, data, seed)]
    counts = {
        name: sorted({images_per_class(arguments, of_classes(data, task), name) for task in tasks})
        for name in accuracies
    }
    told = {name: of.round(2).tolist() for name, of in accuracies.items()}
    result = {
        "settings": asked,
        "classes seen": seen(arguments, data),
        "images per class": counts,
        "accuracies": told,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def same_counts(data: ImageData) -> ImageData:
    """As many training images of each class as the rarest has: all tasks then share programs."""
    fewest = np.bincount(data.train_labels).min()
    rows = np.sort(
        np.concatenate(
            [np.flatnonzero(data.train_labels == c)[:fewest] for c in range(data.classes)]
        )
    )
    return replace(data, train_images=data.train_images[rows], train_labels=data.train_labels[rows])


def seen(arguments: Arguments, data: ImageData) -> list[int]:
    return list(range(arguments.classes, data.classes + 1, arguments.classes))


def tasks_of(arguments: Arguments, data: ImageData, seed: int) -> list[np.ndarray]:
    """The classes of each task."""
    order = np.random.default_rng(seed).permutation(data.classes)
    return [order[last - arguments.classes : last] for last in seen(arguments, data)]


def images_per_class(arguments: Arguments, data: ImageData, method: str) -> int:
    """How many the memory has room for."""
    if method not in CHOSEN:
        return arguments.ipc
    pixels = int(np.prod(data.image_shape))
    room = arguments.ipc * 2 * (pixels + arguments.classes)
    some = data.train_images[:: max(1, len(data.train_images) // 500)]
    return max(1, int(room / (1 + np.mean([png_bytes(image) for image in some]))))


def png_bytes(image: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        file, "png", optimize=True
    )
    return len(file.getvalue())


def learn(arguments: Arguments, data: ImageData, seed: int) -> dict[str, list[float]]:
    """Test accuracies after each task, with each memory."""
    tasks = tasks_of(arguments, data, seed)
    preprocessor = Preprocessor.fit(data.train_images, zca=False)
    memories = {name: Memory([], []) for name in arguments.memories}
    accuracies: dict[str, list[float]] = {name: [] for name in memories}
    for number, classes in enumerate(tasks, start=1):
        task, met = of_classes(data, classes), np.concatenate(tasks[:number])
        known = hold(of_classes(data, met, relabel=False), preprocessor)
        for method, memory in memories.items():
            config, kept = summary(arguments, task, preprocessor, method, seed)
            memory.images.append(kept.images)
            memory.labels.append(among_all(kept.labels, classes, data.classes))
            accuracies[method].append(tested(config, kept, memory, known, data))
        latest = ", ".join(f"{name} {100 * of[-1]:.1f} %" for name, of in accuracies.items())
        print(f"seed {seed}, {len(met)} classes seen: {latest}", flush=True)
    return accuracies


def summary(
    arguments: Arguments, task: ImageData, preprocessor: Preprocessor, method: str, seed: int
) -> tuple[RunConfig, DistilledSet]:
    """A few images of a task: distilled, or chosen."""
    config = RunConfig(
        dataset=arguments.dataset, method=method, width=arguments.width, zca=False,
        ipc=images_per_class(arguments, task, method), batch_size=arguments.batch, pool_size=5,
        iterations=None if method in CHOSEN else arguments.iterations, seed=seed,
        evaluation=EvaluationConfig(repeats=arguments.networks),
    )  # fmt: skip
    distillation = Distillation(config, task, preprocessor)
    distillation.prepare()
    while distillation.iteration < distillation.total:
        distillation.step()
    return distillation.config, distillation.distilled()


def of_classes(data: ImageData, classes: np.ndarray, relabel: bool = True) -> ImageData:
    """The images of some classes, which are then counted from 0 if they are to be."""
    new = np.full(data.classes, -1)
    new[classes] = np.arange(len(classes)) if relabel else classes
    train, test = np.isin(data.train_labels, classes), np.isin(data.test_labels, classes)
    names = tuple(data.class_names[c] for c in classes) if relabel else data.class_names
    return ImageData(
        data.name,
        data.train_images[train],
        new[data.train_labels[train]],
        data.test_images[test],
        new[data.test_labels[test]],
        names,
    )


def among_all(labels: np.ndarray, classes: np.ndarray, total: int) -> np.ndarray:
    """Centred labels of a task as labels of all classes: its own are raised by what a centred
    one-hot label of fewer classes lies lower, the others are -1/total.
    """
    wide = np.full((len(labels), total), -1 / total, np.float32)
    wide[:, classes] = labels + 1 / len(classes) - 1 / total
    return wide


def tested(
    config: RunConfig, like: DistilledSet, memory: Memory, known: Held, data: ImageData
) -> float:
    """The mean accuracy on the known classes of networks trained on the memory."""
    labels = np.concatenate(memory.labels).astype(np.float32)
    whole = replace(
        like,
        images=np.concatenate(memory.images).astype(np.float32),
        labels=labels,
        classes=labels.argmax(1).astype(np.int32),
        class_names=data.class_names,
    )
    steps = replace(config.evaluation, steps=None)
    config = resolve(replace(config, evaluation=steps), data.image_shape, data.classes)
    return float(np.mean(judge(config, known, whole)))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
