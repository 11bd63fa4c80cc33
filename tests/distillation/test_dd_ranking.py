"""What DD-Ranking's package is handed: images in its space, CIFAR-10 in torchvision's files."""

import importlib
import json
import pickle
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bilevel_distillation import DistilledSet
from bilevel_distillation.data import ImageData, Preprocessor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_it_is_handed_the_set_and_the_data(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("dd_ranking")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    labels = (np.arange(20) % 2).astype(np.int32)
    data = ImageData("own", images, labels, images[:6], labels[:6], ("cat", "dog"))
    preprocessor = Preprocessor.fit(images, zca=True)
    soft = np.eye(2, dtype=np.float32)[labels[:4]]
    distilled = DistilledSet(
        preprocessor(images[:4]), soft, labels[:4], data.class_names, preprocessor
    )
    seen = {}

    def scored(command, **_):
        folder = Path(command[2])
        seen["images"], seen["labels"] = (
            np.load(folder / f"{name}.npy") for name in ("images", "labels")
        )
        seen["command"] = command[3:]
        return SimpleNamespace(stdout=json.dumps({"set": [30.0], "random": [20.0]}))

    monkeypatch.setattr(subprocess, "run", scored)
    asked = module.Arguments(tmp_path / "set.npz", Path("python"), epochs=3, runs=1)
    found = module.by_dd_ranking(asked, data, distilled, tmp_path)
    assert found == {"set": [30.0], "random": [20.0]}
    assert seen["command"] == ["--ipc", "2", "--epochs", "3", "--runs", "1"]
    assert seen["labels"].tolist() == [0, 0, 1, 1]
    pixels = seen["images"].transpose(0, 2, 3, 1) * module.DEVIATION + module.MEAN
    np.testing.assert_allclose(255 * pixels, images[[0, 2, 1, 3]], atol=1.01)

    batches = tmp_path / "cifar-10-batches-py"
    parts = [pickle.loads((batches / f"data_batch_{i}").read_bytes()) for i in range(1, 6)]
    assert sum(len(part["labels"]) for part in parts) == 20
    held = pickle.loads((batches / "test_batch").read_bytes())
    assert held["labels"] == labels[:6].tolist()
    np.testing.assert_array_equal(
        held["data"].reshape(6, 3, 8, 8).transpose(0, 2, 3, 1), images[:6]
    )
    assert pickle.loads((batches / "batches.meta").read_bytes())["label_names"]
