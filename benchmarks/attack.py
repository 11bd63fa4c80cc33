"""Membership inference against networks trained on a distilled set (table 5 of the RCIG paper).

10,000 images of MNIST are distilled to 500. Then networks are trained for the same number of steps
on the distilled set, on 500 random images and on all 10,000, and five attackers try to tell those
10,000 from held-out images by what the networks answer.

    python benchmarks/attack.py
    python benchmarks/attack.py --method dm --iterations 500

The first is RCIG beside random and real images; a further method is attacked by what was distilled
alone, as the other two are the same for all. Resumable: the run and the attack go on where they
were stopped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from _report import RESULTS, write

from bilevel_distillation import AttackConfig, EvaluationConfig, RunConfig, attack, run


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        method: that distils.
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
        out: the folder of the runs.
    """

    method: str = "rcig"
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
    first = a.method == "rcig"
    linear = dict(pool_size=a.pool_size, rtol=a.rtol) if first else {}
    path = a.out / a.method
    config = RunConfig(
        dataset=a.dataset, method=a.method, samples=a.samples, ipc=a.ipc, width=a.width,
        batch_size=a.batch_size, iterations=a.iterations, curve_points=1, out=path, **linear,
        evaluation=EvaluationConfig(
            repeats=1, steps=a.steps, learning_rate=a.learning_rate, warmup=200,
            batch_size=a.train_batch,
        ),
    )  # fmt: skip
    run(config)
    kinds = AttackConfig.trained_on if first else ("distilled",)
    found = attack(AttackConfig(path, repeats=a.repeats, trained_on=kinds))
    own = {
        "width": a.width,
        "batch": a.batch_size,
        "meta-iterations": a.iterations,
        "images in a training step": a.train_batch,
        "highest rate": a.learning_rate,
        "networks": a.repeats,
    }
    new = found.to_json()
    new["settings"] |= own
    file = RESULTS / "attack_mnist500.json"
    held = json.loads(file.read_text()) if file.exists() else {}
    others = held.get("others", {})
    if first:
        held = new
    else:
        others[a.method] = {"settings": new["settings"], "distilled": new["distilled"]}
    write("attack_mnist500", {k: v for k, v in held.items() if k != "machine"} | {"others": others})
    for kind in kinds:
        for one in found.of(kind):
            print(f"{kind:14} accuracy {one.test_accuracy:.3f}  AUC", one.auc)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
