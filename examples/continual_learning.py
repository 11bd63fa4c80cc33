"""Learning tasks one after the other with a small memory: distilled images or random ones.

    python examples/continual_learning.py --dataset mnist

The classes come two at a time, and the images of a task are gone when the next one begins: what
stays is a memory of a few images per class. After each task a fresh network is trained on the
memory alone (as in GDumb, Prabhu et al., 2020) and tested on held-out images of all classes seen so
far. Each task is distilled by RCIG when it is there; the other memory keeps random images.

MNIST is read from the folder that BILEVEL_DATA names, or else from the hub; digits need nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
import tyro

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


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        dataset: whose classes come in tasks.
        classes: of each task.
        ipc: images per class that the memory keeps.
        iterations: of distillation, for each task.
        width: of the networks.
        batch: real images in a meta-iteration.
        networks: trained on each memory after each task.
        seeds: of everything random.
    """

    dataset: str = "mnist"
    classes: int = 2
    ipc: int = 1
    iterations: int = 100
    width: int = 16
    batch: int = 256
    networks: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)


def main(arguments: Arguments) -> dict[str, np.ndarray]:
    data = load(arguments.dataset)
    found = [learn(arguments, data, seed) for seed in arguments.seeds]
    accuracies = {name: 100 * np.array([one[name] for one in found]) for name in found[0]}
    print(f"\n{'classes seen':18}" + "".join(f"{n:>14}" for n in seen(arguments, data)))
    for name, of in accuracies.items():
        cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(of.mean(0), of.std(0), strict=True)]
        print(f"{name:18}" + "".join(f"{cell:>14}" for cell in cells))
    return accuracies


def seen(arguments: Arguments, data: ImageData) -> list[int]:
    return list(range(arguments.classes, data.classes + 1, arguments.classes))


def learn(arguments: Arguments, data: ImageData, seed: int) -> dict[str, list[float]]:
    """Test accuracies after each task, with each memory."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(data.classes)
    preprocessor = Preprocessor.fit(data.train_images, zca=False)
    memories: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"distilled": [], "random": []}
    accuracies: dict[str, list[float]] = {name: [] for name in memories}
    for last in seen(arguments, data):
        classes = order[last - arguments.classes : last]
        task = of_classes(data, classes)
        config = RunConfig(
            dataset=arguments.dataset, ipc=arguments.ipc, width=arguments.width, zca=False,
            batch_size=arguments.batch, iterations=arguments.iterations, pool_size=5, seed=seed,
            evaluation=EvaluationConfig(repeats=arguments.networks),
        )  # fmt: skip
        distillation = Distillation(config, task, preprocessor)
        while distillation.iteration < arguments.iterations:
            distillation.step()
        distilled = distillation.distilled()
        rows = [rng.choice(np.flatnonzero(data.train_labels == c), arguments.ipc, replace=False)
                for c in classes]  # fmt: skip
        real = data.train_images[np.concatenate(rows)]
        one_hot = np.eye(len(classes))[distilled.classes] - 1 / len(classes)
        for name, images, labels in (
            ("distilled", distilled.images, distilled.labels),
            ("random", preprocessor(real), one_hot),
        ):
            memories[name].append((images, among_all(labels, classes, data.classes)))
            known = of_classes(data, order[:last], relabel=False)
            accuracies[name].append(
                tested(distillation.config, distilled, memories[name], known, data, preprocessor)
            )
        latest = ", ".join(f"{name} {100 * of[-1]:.1f} %" for name, of in accuracies.items())
        print(f"seed {seed}, {last} classes seen: {latest}", flush=True)
    return accuracies


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
    config: RunConfig,
    like: DistilledSet,
    memory: list[tuple[np.ndarray, np.ndarray]],
    known: ImageData,
    data: ImageData,
    preprocessor: Preprocessor,
) -> float:
    """The mean accuracy on the known classes of networks trained on the memory."""
    images, labels = (np.concatenate(parts) for parts in zip(*memory, strict=True))
    whole = replace(
        like,
        images=images.astype(np.float32),
        labels=labels.astype(np.float32),
        classes=labels.argmax(1).astype(np.int32),
        class_names=data.class_names,
    )
    steps = replace(config.evaluation, steps=None)
    config = resolve(replace(config, evaluation=steps), data.image_shape, data.classes)
    held: Held = hold(known, preprocessor)
    return float(np.mean(judge(config, held, whole)))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
