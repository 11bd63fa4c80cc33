"""Our evaluation of the distilled CIFAR-10 set that RCIG's authors released.

Reads rcig_authors_cifar10_1ipc.npz from the folder that BILEVEL_DATA names, which must also hold
cifar10. The paper reports 53.9 ± 1.0 % at width 128 on the original pixels.

    python benchmarks/authors_set.py
"""

from dataclasses import dataclass

import numpy as np
import tyro
from _report import data_folder, table, write

from bilevel_distillation import EvaluateConfig, EvaluationConfig, reevaluate


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        widths: of the networks that are trained from scratch on the set.
        networks: how many of each.
    """

    widths: tuple[int, ...] = (32, 128)
    networks: int = 3


def main(arguments: Arguments) -> None:
    path = data_folder("rcig_authors_cifar10_1ipc.npz")
    rows, records = [], []
    for width in arguments.widths:
        by = EvaluationConfig(width=width, repeats=arguments.networks)
        asked = EvaluateConfig(path, dataset="cifar10", evaluation=by, baseline=False)
        accuracies = reevaluate(asked)[0].accuracies.distilled
        records.append({"width": width, "accuracies": accuracies})
        mean, deviation = 100 * np.mean(accuracies), 100 * np.std(accuracies)
        rows.append([str(width), f"{mean:.1f} ± {deviation:.1f}", str(len(accuracies))])
        write("authors_set", {"records": records})
    table(["width", "test accuracy %", "networks"], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
