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
        errors, h = example["main"]()
    printed = [float(n) for n in re.findall(r"\d\.\d{3}", capsys.readouterr().out)]
    assert printed == [round(errors[0], 3), round(errors[-1], 3)]
    assert errors[-1] < 0.97 * errors[0]
    assert h.adjoint.residual < 1e-4
    # The first of them is the validation error of the dense ridge solution.
    x, y = (np.asarray(example[name], np.float64) for name in ("x", "y"))
    train, rest = example["train"], example["validation"]
    penalty = np.exp(-5.0) * np.eye(10)
    weights = np.linalg.solve(x[train].T @ x[train] / 60 + penalty, x[train].T @ y[train] / 60)
    np.testing.assert_allclose(errors[0], np.mean((x[rest] @ weights - y[rest]) ** 2), rtol=1e-4)
    assert jnp.all(jnp.isfinite(h.grad))
