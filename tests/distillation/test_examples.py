"""The examples of the application run, and do what they say."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from bilevel_distillation.data import ImageData, load

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_distill_cifar_on_real_images(real_data, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BILEVEL_DATA", str(real_data))
    example = runpy.run_path(str(EXAMPLES / "distill_cifar.py"))
    arguments = example["Arguments"](out=tmp_path / "cifar", minutes=0.02, width=2, networks=1)
    results = example["main"](arguments)
    assert set(results) == {"distilled", "random subset"}
    assert all(len(a) == 1 and 0.05 < a[0] < 0.5 for a in results.values())
    assert (tmp_path / "cifar" / "images.png").read_bytes().startswith(b"\x89PNG")
    assert "meta-iterations in" in capsys.readouterr().out
    assert load("cifar10").image_shape == (32, 32, 3)


@pytest.mark.slow
def test_continual_learning_keeps_what_was_learned(capsys, tmp_path):
    example = runpy.run_path(str(EXAMPLES / "continual_learning.py"))
    arguments = example["Arguments"](
        dataset="digits", memories=("rcig", "random"), classes=5, iterations=40, width=8,
        networks=1, seeds=(0,), save=tmp_path / "found.json",
    )  # fmt: skip
    accuracies = example["main"](arguments)
    assert {name: of.shape for name, of in accuracies.items()} == {
        "rcig": (1, 2), "random": (1, 2),
    }  # fmt: skip
    assert accuracies["rcig"].min() > 25
    assert "classes seen" in capsys.readouterr().out
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept["classes seen"] == [5, 10]
    np.testing.assert_allclose(kept["accuracies"]["random"], accuracies["random"], atol=0.01)


def test_memories_of_chosen_images_have_the_bytes_of_distilled_ones():
    example = runpy.run_path(str(EXAMPLES / "continual_learning.py"))
    flat = np.zeros((40, 28, 28, 1), np.uint8)
    labels = np.arange(40) % 2
    data = ImageData("flat", flat, labels, flat[:2], labels[:2], ("a", "b"))
    arguments = example["Arguments"](ipc=3, classes=2)
    count = example["images_per_class"](arguments, data, "herding")
    room, each = 3 * 2 * (784 + 2), example["png_bytes"](flat[0]) + 1
    assert count * each <= room < (count + 1) * each
    assert example["images_per_class"](arguments, data, "dm") == 3


def test_labels_of_a_task_among_all_classes():
    example = runpy.run_path(str(EXAMPLES / "continual_learning.py"))
    labels = np.eye(2)[[1, 0]] - 1 / 2
    wide = example["among_all"](labels, np.array([7, 3]), 10)
    np.testing.assert_allclose(wide, np.eye(10)[[3, 7]] - 1 / 10, atol=1e-6)
