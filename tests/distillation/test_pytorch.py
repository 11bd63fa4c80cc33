"""Someone with PyTorch and no JAX trains on an exported set.

The interpreter that has PyTorch is named by BILEVEL_TORCH (`make torch` makes one and runs this,
and without PyTorch there it fails); where none is named, the one that runs the tests is tried.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bilevel_distillation import Distillation, RunConfig, export, hold, judge
from bilevel_distillation.data import ImageData

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "train_in_pytorch.py"
IN_GALLERY = EXAMPLES / "gallery" / "in_pytorch.py"
RUN = (
    "import sys; sys.modules['jax'] = None; import runpy; sys.argv.pop(0); "
    "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); "
    "runpy.run_path(sys.argv[0], {}, '__main__')"
)
"""Runs a script where JAX cannot be imported."""


@pytest.fixture(scope="module")
def interpreter():
    if named := os.environ.get("BILEVEL_TORCH"):
        return os.path.abspath(named)  # the tests run scripts in other folders
    found = sys.executable
    if subprocess.run([found, "-c", "import torch"], capture_output=True).returncode != 0:
        pytest.skip("PyTorch is not installed here: `make torch` installs it and runs this test")
    return found


@pytest.mark.slow
def test_a_network_in_pytorch_is_as_good_as_ours(interpreter, tmp_path):
    distillation = Distillation(RunConfig(dataset="digits", iterations=100, pool_size=10))
    for _ in range(100):
        distillation.step()
    distilled = distillation.distilled()
    ours = judge(distillation.config, hold(distillation.data, distillation.preprocessor), distilled)
    folder = export(distilled, tmp_path / "dataset", "hf")
    answer = subprocess.run(
        [interpreter, "-c", RUN, str(EXAMPLE), str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert answer.returncode == 0, answer.stderr
    theirs = float(re.search(r"images: ([\d.]+) ±", answer.stdout).group(1))
    assert abs(theirs - 100 * np.mean(ours)) < 3, (theirs, ours)


@pytest.mark.slow
def test_the_example_of_the_gallery_whitens_and_mirrors_without_jax(interpreter, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)
    labels = np.arange(300, dtype=np.int32) % 2
    data = ImageData("tiles", images, labels, images, labels, ("temple", "flower"))
    config = RunConfig(
        dataset="tiles", ipc=4, width=8, depth=2, padding=0, batch_size=32, iterations=1,
        pool_size=1, zca=True, flip=True,
    )  # fmt: skip
    export(Distillation(config, data).distilled(), tmp_path / "runs" / "photographs", "hf")
    answer = subprocess.run(
        [interpreter, "-c", RUN, str(IN_GALLERY)],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {
            "HF_DATASETS_CACHE": str(tmp_path / "cache"), "BILEVEL_PICTURES": str(tmp_path)
        },
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert len(re.findall(r"trained on 8 .* images: [\d.]+ ± [\d.]+ %", answer.stdout)) == 2
    assert (tmp_path / "in_pytorch.png").stat().st_size > 10_000
