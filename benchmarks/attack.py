"""Membership inference against networks trained on a distilled set (table 5 of the RCIG paper).

10,000 images of MNIST are distilled to 500. Then networks are trained for the same number of steps
on the distilled set, on 500 random images and on all 10,000, and five attackers try to tell those
10,000 from held-out images by what the networks answer.

    python benchmarks/attack.py --help

Resumable: the run and the attack go on where they were stopped.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from _report import write

from bilevel_distillation import AttackConfig, EvaluationConfig, RunConfig, attack, run


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        dataset: whose images are distilled.
        samples: how many of them.
        ipc: distilled images per class.
        width: of the networks.
        batch_size: real images in a meta-iteration.
        iterations: of distillation.
        pool_size: networks.
        rtol: of conjugate gradients.
        steps: that networks are trained for.
        learning_rate: and their highest rate.
        train_batch: images in a step.
        repeats: networks of each kind.
        out: the run's folder.
    """

    dataset: str = "mnist"
    samples: int = 10_000
    ipc: int = 50
    width: int = 16
    batch_size: int = 256
    iterations: int = 100
    pool_size: int = 10
    rtol: float = 0.1
    steps: int = 8_000
    learning_rate: float = 5e-3
    train_batch: int = 64
    repeats: int = 2
    out: Path = Path("runs/attack_mnist500")


def main(arguments: Arguments) -> None:
    a = arguments
    config = RunConfig(
        dataset=a.dataset, samples=a.samples, ipc=a.ipc, width=a.width, batch_size=a.batch_size,
        iterations=a.iterations, pool_size=a.pool_size, rtol=a.rtol, curve_points=1,
        out=a.out,
        evaluation=EvaluationConfig(
            repeats=1, steps=a.steps, learning_rate=a.learning_rate, warmup=200,
            batch_size=a.train_batch,
        ),
    )  # fmt: skip
    run(config)
    found = attack(AttackConfig(a.out, repeats=a.repeats))
    own = {
        "width": a.width,
        "batch": a.batch_size,
        "meta-iterations": a.iterations,
        "images in a training step": a.train_batch,
        "highest rate": a.learning_rate,
        "networks": a.repeats,
    }
    held = found.to_json()
    write("attack_mnist500", held | {"settings": held["settings"] | own})
    for kind in ("distilled", "random_subset", "real_data"):
        for one in found.of(kind):
            print(f"{kind:14} accuracy {one.test_accuracy:.3f}  AUC", one.auc)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
