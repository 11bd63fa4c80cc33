from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Scalar

from .._operator import Damped
from .._result import Result
from .._types import PyTree
from .._varying import vary, varying
from ._base import AbstractInverseHVP, Iterate
from ._preconditioner import AbstractPreconditioner


class Nystrom(AbstractInverseHVP, AbstractPreconditioner):
    """A randomised low-rank approximation of the Hessian, inverted by Woodbury's identity.

        H  ~  U diag(lambda) U^T        from the products of H with `rank` random directions
        v  =  U (lambda + damping)^-1 U^T g  +  (g - U U^T g) / damping

    (Hataya and Yamada, 2023; the sketch is that of Frangella, Tropp and Udell, 2023). All products
    are taken at once; there is no iteration. Where `damping` is 0, what the sketch left out is
    taken to have the smallest eigenvalue in it. The residual tells how good that is: a solve that
    is not at the solution is `Result.approximate`, and one that is worse than v = 0, as it may be
    without damping, a failure. As `CG(preconditioner=Nystrom(rank))` the
    answer is exact and the sketch saves steps, if the Hessian has a few large eigenvalues.

    For a Hessian that is positive semidefinite; an indefinite one is reported.

    Attributes:
        rank: how many directions; each is one Hessian-vector product.
        rtol: a solve that ends with a relative residual above this is a failure; None: one that
            is no better than v = 0.
        seed: of the random directions.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import Nystrom
        >>> hessian = jnp.diag(jnp.array([99.0, 49.0, 0.0, 0.0, 0.0, 0.0]))
        >>> Nystrom(rank=2, damping=1.0)(lambda v: hessian @ v, jnp.ones(6)).v.round(2)
        Array([0.01, 0.02, 1.  , 1.  , 1.  , 1.  ], dtype=float32)
    """

    rank: int = eqx.field(static=True)
    rtol: float | None = None
    seed: int = eqx.field(default=0, static=True)

    def __check_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} leaves no direction: give 1 or more.")

    @property
    def symmetric_only(self) -> bool:
        return True

    @property
    def traceable(self) -> bool:
        return True

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        return self.rtol

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        low_rank, damping = self._sketch(hvp, g, key)
        result = Result.where(low_rank.indefinite, Result.indefinite, Result.successful)
        steps = jnp.asarray(low_rank.eigenvalues.size)
        return Iterate(_invert(low_rank, damping, g), steps, result)

    def prepare(
        self, hvp: Callable[..., Any], g: PyTree[Array], key: PRNGKeyArray | None
    ) -> Callable[..., Any]:
        return _Preconditioner(*self._sketch(hvp, g, key))

    def _sketch(self, hvp, g, key):
        damping = jnp.zeros((), jnp.result_type(*jax.tree.leaves(g)))
        if isinstance(hvp, Damped):
            hvp, damping = hvp.operator, hvp.damping.astype(damping.dtype)
        rank = min(self.rank, optax.tree.size(g))
        return _sketch(hvp, g, jax.random.key(self.seed), key, rank), damping


class _LowRank(eqx.Module):
    """U diag(lambda) U^T; directions that were left out have lambda = 0."""

    basis: Float[Array, "size rank"]
    eigenvalues: Float[Array, " rank"]
    indefinite: Bool[Array, ""]

    def floor(self) -> Scalar:
        """The smallest eigenvalue that was kept; 1 if none was."""
        smallest = jnp.min(self.eigenvalues, where=self.eigenvalues > 0, initial=jnp.inf)
        return jnp.where(jnp.isfinite(smallest), smallest, 1)


class _Preconditioner(eqx.Module):
    low_rank: _LowRank
    damping: Scalar

    def __call__(self, v: PyTree[Array]) -> PyTree[Array]:
        # One on the smallest eigenvalue that was kept, and on all that was left out.
        scale = self.low_rank.floor() + self.damping
        rest = jnp.asarray(1, scale.dtype)
        return _apply(self.low_rank, scale, self.damping, rest, v)


@eqx.filter_jit
def _sketch(hvp, g, seed, key, rank) -> _LowRank:
    flat, unravel = ravel_pytree(g)
    probes = jax.random.normal(seed, (flat.size, rank), flat.dtype) / flat.size**0.5
    probes = vary(probes, varying(flat))
    tall = rank <= flat.size // 4
    if not tall:  # few random directions are nearly orthogonal, many are not
        probes, _ = jnp.linalg.qr(probes)

    def times(probe):
        return ravel_pytree(hvp(unravel(probe), key))[0]

    images = jax.vmap(times, in_axes=1, out_axes=1)(probes)
    small = probes.T @ images
    values, vectors = jnp.linalg.eigh((small + small.T) / 2)
    negligible = 10 * rank * float(jnp.finfo(flat.dtype).eps) * jnp.max(jnp.abs(values))
    halves = images @ (vectors * _inverse_roots(values, negligible)[None, :])
    if tall:
        basis, eigenvalues = _left_singular(halves)
    else:
        basis, singular, _ = jnp.linalg.svd(halves, full_matrices=False)
        eigenvalues = jnp.where(singular**2 > negligible, singular**2, 0)
    return _LowRank(basis, eigenvalues, jnp.any(values < -negligible))


def _left_singular(halves):
    """U and lambda with `halves halves^T = U diag(lambda) U^T`, from matrices of size rank alone.

    A singular value decomposition of a matrix as tall as theta took most of the time.
    """
    values, vectors = jnp.linalg.eigh(halves.T @ halves)
    negligible = halves.shape[1] * float(jnp.finfo(halves.dtype).eps) * jnp.max(values)
    basis = halves @ (vectors * _inverse_roots(values, negligible)[None, :])
    # Once more, as the squares above cost the small ones half of their digits.
    again, turned = jnp.linalg.eigh(basis.T @ basis)
    basis = basis @ (turned * _inverse_roots(again, 0.5)[None, :]) @ turned.T
    kept = values > negligible
    exact = jnp.sum((basis.T @ halves) ** 2, axis=1)
    return jnp.where(kept[None, :], basis, 0), jnp.where(kept, exact, 0)


def _inverse_roots(values, negligible):
    kept = values > negligible
    return jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)


def _invert(low_rank: _LowRank, damping, g):
    rest = jnp.where(damping > 0, damping, low_rank.floor())
    return _apply(low_rank, jnp.ones_like(damping), damping, 1 / rest, g)


@eqx.filter_jit
def _apply(low_rank, scale, damping, rest, v):
    """`scale U (lambda + damping)^-1 U^T v + rest (v - U U^T v)`, over what was kept."""
    flat, unravel = ravel_pytree(v)
    kept = low_rank.eigenvalues > 0
    along = jnp.where(kept, low_rank.basis.T @ flat, 0)
    inverted = along / jnp.where(kept, low_rank.eigenvalues + damping, 1)
    return unravel(low_rank.basis @ (scale * inverted - rest * along) + rest * flat)
