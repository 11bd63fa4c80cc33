import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import lu_factor, lu_solve

from .._result import Result
from ._base import AbstractInverseHVP, Iterate


class Dense(AbstractInverseHVP):
    """Materialise the Hessian and factorise it (LU): exact, for small theta or as a judge.

    An indefinite Hessian is inverted as it is (the implicit function theorem asks for a
    stationary point and an invertible Hessian, no more); a singular one is reported.

    Attributes:
        max_size: raise where theta has more numbers than this: the matrix has its square.
    """

    max_size: int = eqx.field(default=20_000, static=True)

    def tolerance(self, g):
        return None

    def solve(self, hvp, g, v0, key):
        size = optax.tree.size(g)
        if size > self.max_size:
            raise ValueError(
                f"theta has {size} numbers, more than Dense's max_size={self.max_size}: use CG, "
                "or raise max_size if a matrix of that many rows fits your memory."
            )
        return _solve(hvp, g, key)


@eqx.filter_jit
def _solve(hvp, g, key):
    flat, unravel = ravel_pytree(g)

    def column(direction):
        product = hvp(unravel(direction)) if key is None else hvp(unravel(direction), key)
        return ravel_pytree(product)[0]

    hessian = jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype)).T
    factors = lu_factor(hessian)
    v = lu_solve(factors, flat)
    pivots = jnp.abs(jnp.diag(factors[0]))
    tiny = flat.size * jnp.finfo(flat.dtype).eps * jnp.max(pivots)
    singular = jnp.any(pivots <= tiny) & jnp.any(flat != 0)
    v = jnp.where(jnp.any(flat != 0), v, 0)
    result = Result.where(singular, Result.singular, Result.successful)
    result = Result.where(jnp.all(jnp.isfinite(hessian)), result, Result.nonfinite)
    return Iterate(unravel(v), jnp.asarray(flat.size), result)
