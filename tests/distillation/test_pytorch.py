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

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_in_pytorch.py"


@pytest.fixture(scope="module")
def interpreter():
    if named := os.environ.get("BILEVEL_TORCH"):
        return named
    found = sys.executable
    if subprocess.run([found, "-c", "import torch"], capture_output=True).returncode != 0:
        pytest.skip("PyTorch is not installed here: `make torch` installs it and runs this test")
    return found


@pytest.mark.slow
def test_a_network_in_pytorch_is_as_good_as_ours(interpreter, tmp_path):
    distillation = Distillation(RunConfig(dataset="digits", iterations=200, pool_size=10))
    for _ in range(200):
        distillation.step()
    distilled = distillation.distilled()
    ours = judge(distillation.config, hold(distillation.data, distillation.preprocessor), distilled)
    folder = export(distilled, tmp_path / "dataset", "hf")
    run = (
        "import sys; sys.modules['jax'] = None; import runpy; sys.argv.pop(0); "
        f"sys.path.insert(0, {str(EXAMPLE.parent)!r}); "
        "runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    answer = subprocess.run(
        [interpreter, "-c", run, str(EXAMPLE), str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert answer.returncode == 0, answer.stderr
    theirs = float(re.search(r"images: ([\d.]+) ±", answer.stdout).group(1))
    assert abs(theirs - 100 * np.mean(ours)) < 3, (theirs, ours)
