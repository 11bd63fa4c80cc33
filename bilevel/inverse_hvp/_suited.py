from collections.abc import Callable

import optax
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._loops import loops_slowly
from .._types import PyTree
from ._base import AbstractInverseHVP, Iterate, default_rtol
from ._cg import CG
from ._dense import Dense

MOST_MATERIALISED = 512
"""Numbers up to which theta's Jacobian is a matrix that is quickly made and factorised."""
RESTART = 40


class Suited(AbstractInverseHVP):
    """What suits the Jacobian of a root or a fixed point, which is not symmetric, where the caller
    names nothing: `Dense` for up to 512 numbers and GMRES beyond; where GMRES cannot or had better
    not run (stochastic products, convolutions in an XLA loop on a CPU), `CG` on normal equations.
    """

    @property
    def traceable(self) -> bool:
        return True

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        return None if _is_small(g) else default_rtol(g)

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        if key is None and _is_small(g):
            return Dense().solve(hvp, g, v0, key)
        if key is not None or loops_slowly(hvp, g):
            return CG()._solve_normal_equations(hvp, g, key)
        import lineax as lx  # only now: imports of bilevel are to be quick

        from ._lineax import Lineax

        rtol = default_rtol(g) / 4
        gmres = lx.GMRES(rtol, rtol, restart=RESTART, stagnation_iters=RESTART)
        return Lineax(gmres).solve(hvp, g, v0, key)


def _is_small(g: PyTree[Array]) -> bool:
    return optax.tree.size(g) <= MOST_MATERIALISED
