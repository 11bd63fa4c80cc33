import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._loops import loops_slowly
from .._result import Result
from .._stationarity import inverse_unit
from .._tree import divide, multiply, norm, wide_dtype
from .._types import PyTree
from ._base import AbstractInverseHVP, Iterate, default_rtol
from ._preconditioner import AbstractPreconditioner, make_preconditioner


class Lineax(AbstractInverseHVP):
    """Any linear solver of lineax: GMRES, BiCGStab, LSMR, CG, or a direct one.

    The direct ones (LU, QR, SVD, Cholesky) materialise the Hessian. The iterative ones are XLA
    loops, which are slow on a CPU where a product holds a convolution: there, use `CG`.

    Attributes:
        solver: a lineax solver, e.g. `lineax.GMRES(rtol=1e-6, atol=1e-6)`.
        rtol: a solve that ends with a relative residual above this is a failure; None: 1e-10 in
            float64, 1e-5 otherwise, or the `rtol` of the solver, if that is larger.
        preconditioner: see `CG`.

    Examples:
        >>> import jax.numpy as jnp, lineax
        >>> from bilevel.inverse_hvp import Lineax
        >>> saddle = jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> gmres = lineax.GMRES(rtol=1e-6, atol=1e-6)
        >>> Lineax(gmres)(lambda v: saddle @ v, jnp.array([2.0, 4.0])).v
        Array([2.00, 1.00], dtype=float32)
    """

    solver: lx.AbstractLinearSolver = eqx.field(default_factory=lambda: lx.GMRES(1e-6, 1e-6))
    rtol: float | None = None
    preconditioner: Callable[..., Any] | AbstractPreconditioner | None = None

    def __check_init__(self) -> None:
        if not isinstance(self.solver, lx.AbstractLinearSolver):
            raise ValueError(
                f"solver={self.solver!r} is no solver of lineax: pass one, for example "
                "`lineax.GMRES(rtol=1e-6, atol=1e-6)`."
            )

    @property
    def symmetric_only(self) -> bool:
        return isinstance(self.solver, lx.CG | lx.Cholesky)

    @property
    def traceable(self) -> bool:
        return True

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        if self.rtol is not None:
            return self.rtol
        # Theirs is a norm over each element's own scale, and `g` has norm 1: 2 for both terms.
        own = float(getattr(self.solver, "rtol", 0)) + float(getattr(self.solver, "atol", 0))
        return max(default_rtol(g), 2 * own)

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        if key is not None:
            raise ValueError(
                "key was given, but Lineax needs Hessian-vector products that do not change from "
                "one to the next: use SGD or Neumann, or close over one key in the inner loss."
            )
        if hasattr(self.solver, "max_steps") and loops_slowly(hvp, g):
            warnings.warn(
                "Lineax runs the solver in an XLA loop, which slows convolutions down tens of "
                "times on a CPU: use `CG`, or the same on an accelerator.",
                stacklevel=2,
            )
        precondition = make_preconditioner(self.preconditioner, hvp, g, key)
        return _solve(hvp, g, v0, self.solver, precondition)


@eqx.filter_jit
def _solve(hvp, g, v0, solver, precondition) -> Iterate:
    form = jax.eval_shape(lambda: g)
    tags: set[object] = set()
    if isinstance(solver, lx.CG | lx.Cholesky):
        tags = {lx.positive_semidefinite_tag}
    elif hvp.symmetric:
        tags = {lx.symmetric_tag}
    # lineax takes a small curvature for a breakdown: the operator gets a norm of about 1.
    unit = inverse_unit(norm(hvp(g))).astype(wide_dtype(g))
    options = {} if v0 is None else {"y0": divide(v0, unit)}
    if precondition is not None:
        options["preconditioner"] = lx.FunctionLinearOperator(
            lambda v: divide(precondition(v), unit), form, lx.positive_semidefinite_tag
        )
    operator = lx.FunctionLinearOperator(lambda v: multiply(hvp(v), unit), form, frozenset(tags))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = lx.linear_solve(operator, g, solver, options=options, throw=False)
    solution = multiply(found.value, unit)
    finite = jnp.isfinite(norm(solution))
    v: PyTree[Array] = optax.tree.where(finite, solution, optax.tree.zeros_like(g))
    rest = optax.tree.sub(g, hvp(v))
    # An iterative solver also calls it singular when it is out of steps: the residual tells.
    direct = not hasattr(solver, "max_steps")
    singular = ~finite | (direct & (found.result == lx.RESULTS.singular))
    result = Result.where(singular, Result.singular, Result.successful)
    result = Result.where(jnp.isfinite(norm(rest)), result, Result.nonfinite)
    return Iterate(v, jnp.asarray(found.stats.get("num_steps", 0)), result, rest=rest)
