"""A set distilled by one network, judged by others (table 3 of the RCIG paper).

CIFAR-10, 10 images per class, distilled by a ConvNet; then each network is trained from scratch on
the set, and on random images, with its usual normalisation.

    python benchmarks/networks.py --help

Resumable: the distillation goes on where it was stopped, and networks that the result file already
holds are skipped.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from _report import RESULTS, table, write

from bilevel_distillation import EvaluateConfig, EvaluationConfig, RunConfig, reevaluate, run

NAME = "networks_cifar10"


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        ipc: distilled images per class.
        width: of the ConvNet.
        norm: its normalisation while distilling.
        batch_size: real images in a meta-iteration.
        iterations: of distillation.
        pool_size: networks.
        rtol: of conjugate gradients.
        judges: a network and its normalisation each.
        judges_width: channels of their first convolution.
        steps: that each is trained for.
        learning_rate: and its highest rate.
        repeats: networks of each kind.
        out: the run's folder.
    """

    ipc: int = 10
    width: int = 16
    norm: str = "none"
    batch_size: int = 256
    iterations: int = 200
    pool_size: int = 10
    rtol: float = 0.1
    judges: tuple[tuple[str, str], ...] = (
        ("convnet", "none"),
        ("convnet", "batch"),
        ("alexnet", "none"),
        ("vgg11", "batch"),
        ("resnet18", "batch"),
    )
    judges_width: int = 16
    steps: int = 400
    learning_rate: float = 1e-3
    repeats: int = 2
    out: Path = Path("runs/networks_cifar10")


def main(arguments: Arguments) -> None:
    a = arguments
    config = RunConfig(
        dataset="cifar10", ipc=a.ipc, width=a.width, norm=a.norm,  # pyright: ignore[reportArgumentType]
        batch_size=a.batch_size, iterations=a.iterations, pool_size=a.pool_size,
        rtol=a.rtol, curve_points=1, out=a.out,
        evaluation=EvaluationConfig(repeats=1, steps=a.steps, learning_rate=a.learning_rate),
    )  # fmt: skip
    run(config)
    settings = {
        "width": a.width,
        "batch": a.batch_size,
        "meta-iterations": a.iterations,
        "steps": a.steps,
        "highest rate": a.learning_rate,
        "channels of the others": a.judges_width,
        "networks": a.repeats,
    }
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for network, norm in a.judges:
        if any((row["network"], row["norm"]) == (network, norm) for row in rows):
            continue
        began = time.monotonic()
        by = EvaluationConfig(
            network=network, norm=norm, width=a.judges_width, repeats=a.repeats,  # pyright: ignore[reportArgumentType]
            steps=a.steps, learning_rate=a.learning_rate,
        )  # fmt: skip
        (found,) = reevaluate(EvaluateConfig(a.out, evaluation=by))
        rows.append(found.to_json())
        write(NAME, {"settings": settings, "rows": rows})
        print(f"{network} {norm}: {time.monotonic() - began:.0f} s", flush=True)
    columns = ["network", "norm", "distilled", "random_subset"]
    table(columns, [[str(row[column]) for column in columns] for row in rows])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
