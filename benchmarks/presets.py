"""How long the meta-step of each row of the paper compiles, and what it takes, by its program.

Every data set and images per class of `reproduce.py`, at the paper's network, batch, subset and
options: the meta-step is compiled whole, as for an accelerator, for shapes alone. Nothing is run
and no data are read. Memory is that of the arguments (the training images, in float32, among them)
and temporaries; on another backend XLA may lay them out in another way.

    python benchmarks/presets.py --help

Resumable: rows that the result file already holds are skipped.
"""

import json
import time
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import numpy as np
import tyro
from _report import RESULTS, table, write
from _whole_step import compile_whole, memory_of
from reproduce import ROWS

from bilevel_distillation import RunConfig, resolve
from bilevel_distillation.engine import make_recipe

DATA: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000),
    "cub200": ((32, 32, 3), 200, 5_994),
    "imagenette": ((128, 128, 3), 10, 9_469),
    "imagewoof": ((128, 128, 3), 10, 9_025),
    "imagenet64": ((64, 64, 3), 1_000, 1_281_167),
}
"""Shape of an image, classes and training images."""

COLUMNS = ("distilled", "batch", "n_subset", "compilation, s", "memory, GB",
           "of it training images, GB")  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        rows: data set and images per class.
        microbatch: images at a time, rematerialised; None: all at once, activations kept.
        name: of the result file.
    """

    rows: tuple[str, ...] = ROWS
    microbatch: int | None = None
    name: str = "presets"


def main(arguments: Arguments) -> None:
    path = RESULTS / f"{arguments.name}.json"
    held = json.loads(path.read_text())["rows"] if path.exists() else {}
    for row in arguments.rows:
        if row not in held:
            held[row] = measure(row, arguments.microbatch)
            settings = {"microbatch": arguments.microbatch}
            write(arguments.name, {"settings": settings, "rows": held})
            print(row, held[row], flush=True)
    table(["row", *COLUMNS], [[row, *(one[c] for c in COLUMNS)] for row, one in held.items()])


def measure(row: str, microbatch: int | None) -> dict[str, Any]:
    dataset, ipc = row.split("/")
    shape, classes, samples = DATA[dataset]
    config = RunConfig(
        dataset=dataset, ipc=int(ipc), microbatch=microbatch, remat=microbatch is not None
    )
    config = resolve(config, shape, classes)
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        recipe = make_recipe(config, shape, classes, samples)
        began = time.perf_counter()
        program = compile_whole(recipe, config, shape, classes, samples)
        seconds = time.perf_counter() - began
    memory = memory_of(program)
    return dict(
        zip(
            COLUMNS,
            [
                int(ipc) * classes,
                config.batch_size,
                config.n_subset or int(ipc) * classes,
                round(seconds, 1),
                (memory["arguments"] + memory["temporaries"]) / 1e9,
                samples * float(np.prod(shape)) * 4 / 1e9,
            ],
            strict=True,
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
