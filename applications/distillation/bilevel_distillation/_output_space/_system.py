"""A and the solves with it."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from bilevel import Result

from .._running import compiled
from ._jacobian import Jacobian, Rows
from ._kernel import Kernel, Outputs
from ._krylov import Searched, Solution, conjugate_gradients

LinearSolver = Literal["auto", "cholesky", "cg"]

MOST_FACTORISED = 100
"""Rows of A, m C, up to which "auto" factorises it. At 100 rows, on two CPU cores, a meta-iteration
takes 1.1 times as long as with conjugate gradients to 1 %, and is right to rounding
(`benchmarks/meta_step.py`, mnist10).
"""


class System(eqx.Module):
    """A = J J^T + R.

    Attributes:
        jacobian, kernel: J and R.
        factor: the Cholesky factor of A, or None for conjugate gradients.
    """

    jacobian: Jacobian
    kernel: Kernel
    factor: Float[Array, "mc mc"] | None

    @staticmethod
    def make(jacobian: Jacobian, kernel: Kernel) -> "System":
        """Factorised where J is a matrix."""
        (first, *_) = jacobian.blocks
        factor = _factorise(first, kernel) if isinstance(first, Rows) else None
        return System(jacobian, kernel, factor)

    def solve(
        self, b: Outputs, rtol: float, max_steps: int, searched: Searched | None = None
    ) -> Solution:
        """Solve `A x = b`.

        Args:
            b: shape (m, classes).
            rtol: relative error of x, in the norm of A, at which conjugate gradients stop.
            max_steps: of conjugate gradients, at most.
            searched: of an earlier solution: those directions are not searched again.
        """
        if self.factor is not None:
            return _by_cholesky(self.factor, b)
        return conjugate_gradients(self.jacobian, self.kernel, b, rtol, max_steps, searched)


@compiled
def _factorise(block: Rows, kernel: Kernel):
    dtype = block.matrix.dtype if kernel.factor is None else kernel.factor.dtype
    rows = block.matrix.astype(dtype)
    classes = rows.shape[0] // block.rows
    with jax.default_matmul_precision("highest"):
        gram = rows @ rows.T
    by_class = gram.reshape(block.rows, classes, block.rows, classes)
    each = jnp.arange(classes)
    by_class = by_class.at[:, each, :, each].add(kernel(jnp.eye(block.rows, dtype=dtype)))
    return cho_factor(by_class.reshape(gram.shape), lower=True)[0]


@compiled
def _by_cholesky(factor, b) -> Solution:
    x = cho_solve((factor, True), b.reshape(-1).astype(factor.dtype))
    finite = jnp.all(jnp.isfinite(x))
    result = Result.where(finite, Result.successful, Result.nonfinite)
    zero = jnp.zeros((), b.dtype)
    x = x.reshape(b.shape).astype(b.dtype)
    return Solution(x, x, jnp.asarray(0), zero, result, None, None)
