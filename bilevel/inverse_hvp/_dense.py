from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._result import Result
from .._tree import norm
from .._types import PyTree
from .._varying import vary, varying
from ._base import AbstractInverseHVP, Iterate, default_rtol


class Dense(AbstractInverseHVP):
    """Materialise the Hessian and factorise it (LU): exact, for small theta or as a judge.

    An indefinite Hessian is inverted as it is (the implicit function theorem asks for a
    stationary point and an invertible Hessian, no more); a singular one is reported.

    Attributes:
        max_size: raise where theta has more numbers than this: the matrix has its square.
        pseudo_inverse: take the pseudo-inverse (by singular values) in place of the inverse: the
            shortest of the v that come nearest to the solution. It is what a singular Hessian asks
            for where psi does not move theta along the directions that the inner loss leaves open,
            as where more weights than rows are fitted from zero. Of the part of `g` along those
            directions, if there is one, the residual tells: `Result.approximate`.
        rtol: singular values up to this part of the largest count as zero; None: that of rounding,
            the size of theta times the machine epsilon.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import Dense
        >>> flat = jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> Dense(pseudo_inverse=True)(lambda v: flat @ v, jnp.array([4.0, 0.0])).v
        Array([2.00, 0.00], dtype=float32)
        >>> saddle = jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> Dense()(lambda v: saddle @ v, jnp.array([2.0, 4.0])).v
        Array([2.00, 1.00], dtype=float32)
    """

    max_size: int = eqx.field(default=20_000, static=True)
    pseudo_inverse: bool = eqx.field(default=False, static=True)
    rtol: float | Scalar | None = None

    def __check_init__(self) -> None:
        if self.rtol is not None and not self.pseudo_inverse:
            raise ValueError(
                f"rtol={self.rtol} cuts singular values, of which LU has none: pass "
                "pseudo_inverse=True, or leave it out."
            )

    @property
    def traceable(self) -> bool:
        return True

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        return None

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        size = optax.tree.size(g)
        if size > self.max_size:
            raise ValueError(
                f"theta has {size} numbers, more than Dense's max_size={self.max_size}: use CG, "
                "or raise max_size if a matrix of that many rows fits your memory."
            )
        if self.pseudo_inverse:
            return _solve_nearest(hvp, g, key, self.rtol)
        return _solve(hvp, g, key)


def _matrix(hvp, flat, unravel, key):
    def column(direction):
        return ravel_pytree(hvp(unravel(direction), key))[0]

    directions = vary(jnp.eye(flat.size, dtype=flat.dtype), varying(flat))
    return jax.vmap(column)(directions).T


@eqx.filter_jit
def _solve_nearest(hvp, g, key, rtol):
    flat, unravel = ravel_pytree(g)
    hessian = _matrix(hvp, flat, unravel, key)
    sound = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(flat))
    left, values, right = jnp.linalg.svd(jnp.where(sound, hessian, 0), full_matrices=False)
    eps = float(jnp.finfo(flat.dtype).eps)
    cut = jnp.asarray(flat.size * eps if rtol is None else rtol, flat.dtype)
    kept = values > cut * jnp.max(values)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    v = right.T @ (inverse * (left.T @ jnp.where(sound, flat, 0)))
    rest = flat - hessian @ v
    short = ~jnp.all(kept) & (norm(rest) > 10 * default_rtol(g))
    result = Result.where(short, Result.approximate, Result.successful)
    result = Result.where(sound, result, Result.nonfinite)
    return Iterate(unravel(v), jnp.asarray(flat.size), result, rest=unravel(rest))


@eqx.filter_jit
def _solve(hvp, g, key):
    flat, unravel = ravel_pytree(g)
    hessian = _matrix(hvp, flat, unravel, key)
    factors = lu_factor(hessian)
    v = jnp.where(jnp.any(flat != 0), lu_solve(factors, flat), 0)
    solved = jnp.isfinite(norm(v))
    v = jnp.where(solved, v, 0)
    residual = norm(hessian @ v - flat)
    eps = float(jnp.finfo(flat.dtype).eps)
    pivots = jnp.abs(jnp.diag(factors[0]))
    singular = (
        ~solved | jnp.any(pivots <= flat.size * eps * jnp.max(pivots)) | (residual > eps**0.5)
    )
    result = Result.where(singular & jnp.any(flat != 0), Result.singular, Result.successful)
    finite = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(flat))
    result = Result.where(finite, result, Result.nonfinite)
    return Iterate(unravel(v), jnp.asarray(flat.size), result, rest=unravel(flat - hessian @ v))
