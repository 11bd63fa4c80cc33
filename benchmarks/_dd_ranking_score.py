"""DD-Ranking's own score of a set, by an interpreter that has it; started by dd_ranking.py.

Without JAX. The folder holds images.npy, labels.npy and torchvision's form of CIFAR-10, whose files
are not those of the original and are read without its check sums.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ipc", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        found = scores(options)
    print(json.dumps(found))


def scores(options: argparse.Namespace) -> dict[str, list[float]]:
    import numpy as np
    import torch
    import torchvision
    from ddranking import metrics

    cifar = torchvision.datasets.CIFAR10
    cifar._check_integrity = lambda self: True
    cifar.meta = cifar.meta | {"md5": None}
    judge = metrics.LabelRobustScoreHard(
        dataset="CIFAR10", real_data_path=str(options.folder), ipc=options.ipc,
        num_epochs=options.epochs, num_eval=options.runs, num_workers=0, device="cpu",
        step_size=options.epochs, save_path=str(options.folder / "unused"),
        random_data_path=str(options.folder / "random"), aug_params={"beta": 1.0},
    )  # fmt: skip
    judge.test_interval = options.epochs  # the test images are asked once, of the last epoch
    met: dict[str, list[float]] = {"set": [], "random": []}
    whole = judge._compute_hard_label_metrics_helper

    def kept(*args, **kwargs):
        best, rate = whole(*args, **kwargs)
        met["random" if len(met["random"]) < len(met["set"]) else "set"].append(float(best))
        return best, rate

    judge._compute_hard_label_metrics_helper = kept
    module = sys.modules["ddranking.metrics.hard_label"]
    module.REAL_DATA_ACC_CACHE["CIFAR10-ConvNet-3"] = 0.0  # enters no figure kept here
    # As of 0.2.0 it counts each score twice, and then fails to write columns of unlike lengths.
    module.save_results = lambda results, path: None
    images = torch.from_numpy(np.load(options.folder / "images.npy"))
    labels = torch.from_numpy(np.load(options.folder / "labels.npy"))
    judge.compute_metrics(image_tensor=images, hard_labels=labels)
    return met


if __name__ == "__main__":
    main()
