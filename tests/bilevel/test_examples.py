"""The examples run, and what they print is true."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_quickstart(capsys):
    example = runpy.run_path(str(EXAMPLES / "quickstart.py"))
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        before, after = example["main"]()
    printed = [float(n) for n in re.findall(r"\d\.\d{3}", capsys.readouterr().out)]
    assert printed == [round(float(h.value), 3) for h in (before, after)]
    assert after.value < 0.97 * before.value
    assert after.adjoint.residual < 1e-4 and jnp.all(jnp.isfinite(after.grad))
    # The first of them is the validation error of the dense ridge solution.
    x, y = (np.asarray(example[name], np.float64) for name in ("x", "y"))
    train, rest = example["train"], example["validation"]
    penalty = np.exp(-5.0) * np.eye(10)
    weights = np.linalg.solve(x[train].T @ x[train] / 60 + penalty, x[train].T @ y[train] / 60)
    np.testing.assert_allclose(before.value, np.mean((x[rest] @ weights - y[rest]) ** 2), rtol=1e-4)
