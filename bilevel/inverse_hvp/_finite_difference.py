from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray

from .._types import PyTree
from ._base import AbstractInverseHVP, Iterate


class FiniteDifference(AbstractInverseHVP):
    """No Hessian at all: the inner problem is solved again with a little of the outer loss added.

        theta(e)         =  argmin  inner(., psi) + e outer(., psi)
        v                =  - d theta / d e
        d outer / d psi  =  d outer / d psi |theta*  +  d/de [ d inner / d psi |theta(e) ]

    at e = 0, by a finite difference of that order (F2SA, Kwon et al., 2023: order 1; F2SA-p, Chen
    et al., 2025). It takes first derivatives of the losses only, as many more inner solves as its
    order and one to find the step, begun at theta*, and a solver that is precise: what each solve
    is short of is divided by the step. For `hypergradient`, `implicit_value_and_grad` and
    `implicit_grad` of an inner loss; the hypergradient has no derivative itself, and is
    `Result.approximate`. The residual is that of gradients at the points theta(e), and does not
    see how the inner Hessian changes between them.

    Attributes:
        order: the error of the difference falls with this power of the step; 2 is the central one.
        step: how far theta moves, relative to its norm; None: eps^(1 / (order + 1)), 5e-3 in
            float32 and 6e-6 in float64 for order 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import hypergradient
        >>> from bilevel.inverse_hvp import FiniteDifference
        >>> from bilevel.solvers import LBFGS
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> compute = hypergradient(outer, inner, solver=LBFGS(), inverse_hvp=FiniteDifference())
        >>> compute(jnp.array([1.0, 2.0]), jnp.zeros(2)).grad.round(2)
        Array([2., 4.], dtype=float32)
    """

    order: int = eqx.field(default=2, static=True)
    step: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"order={self.order} is no order of a difference: give 1 or more.")
        if self.step is not None and not 0 < self.step < 1:
            raise ValueError(f"step={self.step} is no small part of theta: give 1e-3, or None.")
        if not (isinstance(self.damping, float | int) and self.damping == 0) or self.rederive:
            raise ValueError(
                "FiniteDifference has no Hessian that could be damped or derived anew: leave "
                "damping and rederive out."
            )

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        raise ValueError(NEEDS_A_LOSS)


NEEDS_A_LOSS = (
    "inverse_hvp=FiniteDifference() solves the inner problem again, and cannot apply the inverse "
    "of a Hessian that it is given: it is for hypergradient, implicit_value_and_grad and "
    "implicit_grad; elsewhere pass e.g. CG()."
)
