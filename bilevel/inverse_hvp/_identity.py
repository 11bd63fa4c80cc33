from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._result import Result
from .._tree import multiply, vdot
from .._types import PyTree
from ._base import AbstractInverseHVP, Iterate


class Identity(AbstractInverseHVP):
    """`v = scale g`: the Hessian taken for a multiple of the identity; one product, no iteration.

    The roughest approximation and the cheapest (Luketina et al., 2016): with `scale=1.0` the
    first-order hypergradient, and for a proximal inner loss first-order MAML. What is short of
    the solution is `Result.approximate`; its residual says how far.

    Attributes:
        scale: the factor; None: the one with the smallest residual, `g.Hg / |Hg|^2`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import Identity
        >>> Identity()(lambda v: 4 * v, jnp.ones(2)).v
        Array([0.25, 0.25], dtype=float32)
    """

    scale: float | Scalar | None = None

    @property
    def traceable(self) -> bool:
        return True

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        return _scale(hvp, g, self.scale, key)


@eqx.filter_jit
def _scale(hvp, g, scale, key) -> Iterate:
    result = Result.successful
    if scale is None:
        image = hvp(g, key)
        squared, curvature = vdot(image, image), vdot(g, image)
        curved_down = (curvature <= 0) & (squared > 0)
        result = Result.where(curved_down, Result.indefinite, Result.successful)
        scale = curvature / jnp.where(squared > 0, squared, 1).astype(squared.dtype)
    else:
        result = Result.approximate
    return Iterate(multiply(g, jnp.asarray(scale)), jnp.asarray(0), result)
