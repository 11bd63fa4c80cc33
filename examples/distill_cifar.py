"""Distil CIFAR-10 into one image per class through the Python API.

    python examples/distill_cifar.py

CIFAR-10 is read from the folder that the environment variable BILEVEL_DATA names, or else from the
hub. On a GPU this is the paper's full setting (15,000 meta-iterations at width 128); on a CPU a
smaller one (width 16, six minutes of meta-iterations). Prints test accuracies of networks trained
on the distilled images and on random ones, and writes pictures into runs/cifar.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro

from bilevel_distillation import (
    Distillation,
    EvaluationConfig,
    RunConfig,
    draw_images,
    hold,
    judge,
    judge_random_subsets,
)


@dataclass(frozen=True)
class Arguments:
    """What a CPU can do in ten minutes, and what a GPU is for.

    Attributes:
        out: where the pictures go.
        minutes: of meta-iterations on a CPU; a GPU takes all that the preset asks for.
        width: of the network on a CPU.
        networks: trained from scratch on each set.
    """

    out: Path = Path("runs/cifar")
    minutes: float = 6.0
    width: int = 16
    networks: int = 3


def main(arguments: Arguments) -> dict[str, list[float]]:
    config = RunConfig(
        dataset="cifar10", ipc=1, evaluation=EvaluationConfig(repeats=arguments.networks)
    )
    seconds = float("inf")
    if jax.default_backend() == "cpu":
        config = replace(config, width=arguments.width, batch_size=256)
        seconds = 60 * arguments.minutes

    distillation = Distillation(config)
    began = said = time.monotonic()
    while distillation.iteration < distillation.total and distillation.seconds < seconds:
        metrics = distillation.step()
        if time.monotonic() - said > 20:
            said = time.monotonic()
            rate = (said - began) / distillation.iteration
            print(
                f"iteration {distillation.iteration}, {rate:.2f} s each, "
                f"loss {metrics.loss:.3f}, batch accuracy {metrics.accuracy:.2f}",
                flush=True,
            )

    distilled = distillation.distilled()
    held = hold(distillation.data, distillation.preprocessor)
    results = {
        "distilled": judge(distillation.config, held, distilled),
        "random subset": judge_random_subsets(
            distillation.config, distillation.data, held, distilled
        ),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw_images(distilled, arguments.out / "images.png")
    distilled.save_npz(arguments.out / "distilled.npz")
    print(f"{distillation.iteration} meta-iterations in {distillation.seconds:.0f} s")
    for name, accuracies in results.items():
        mean, deviation = 100 * np.mean(accuracies), 100 * np.std(accuracies)
        print(f"{name:14} {mean:5.1f} ± {deviation:.1f} %  ({len(accuracies)} networks)")
    return results


if __name__ == "__main__":
    main(tyro.cli(Arguments))
