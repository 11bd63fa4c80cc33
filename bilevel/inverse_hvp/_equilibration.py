"""A diagonal preconditioner that needs nothing but products."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from .._tree import wide_dtype
from .._types import PyTree
from .._varying import vary, varying
from ._preconditioner import AbstractPreconditioner


class Equilibration(AbstractPreconditioner):
    """Each number of theta in units of the norm of its row of the Hessian (Dauphin et al.,
    "Equilibrated adaptive learning rates for non-convex optimization", 2015).

        row norms  ~  sqrt(mean over samples of (H z)^2)        z random signs

    As `CG(preconditioner=Equilibration())` and `NewtonCG(preconditioner=Equilibration())`, for
    numbers that are curved very differently: penalties of their own, layers of different scales.
    It is positive whatever the Hessian is, and costs as many products as samples, all at once.

    Attributes:
        samples: how many products; with 8 a row's norm is known to about a quarter.
        seed: of the random signs.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import CG, Equilibration
        >>> curvature = jnp.array([1e-3, 1.0, 1e3])
        >>> CG(preconditioner=Equilibration())(lambda v: curvature * v, jnp.ones(3)).steps
        Array(1, dtype=int32)
    """

    samples: int = eqx.field(default=8, static=True)
    seed: int = eqx.field(default=0, static=True)

    def __check_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} asks for no product: give 1 or more.")

    def prepare(
        self, hvp: Callable[..., PyTree[Array]], g: PyTree[Array], key: PRNGKeyArray | None
    ) -> "Scaling":
        return _row_norms(hvp, g, key, self.samples, self.seed)


class Scaling(eqx.Module):
    """v over `scale`, number by number."""

    scale: PyTree[Array]

    def __call__(self, v: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda leaf, scale: leaf / scale, v, self.scale)


@eqx.filter_jit
def _row_norms(hvp: Any, g: PyTree[Array], key: Any, samples: int, seed: int) -> Scaling:
    leaves, form = jax.tree.flatten(g)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    signs = [
        vary(jax.random.rademacher(one, (samples, *leaf.shape), leaf.dtype), varying(leaf))
        for one, leaf in zip(keys, leaves, strict=True)
    ]

    def times(z):
        return hvp(z) if key is None else hvp(z, key)

    images = jax.vmap(times)(jax.tree.unflatten(form, signs))

    def norm(image):
        # Over the largest of a row, as squares must not leave the range.
        most = jnp.max(jnp.abs(image), axis=0, keepdims=True)
        share = image / jnp.where(most > 0, most, 1)
        found = most[0] * jnp.sqrt(jnp.mean(share**2, axis=0))
        return jnp.where(jnp.isfinite(found), found, 0)

    return Scaling(_around_one(jax.tree.map(norm, images)))


def _around_one(norms: PyTree[Array]) -> PyTree[Array]:
    """Over about their geometric mean, so that what is divided by them stays in the range."""
    dtype = wide_dtype(norms)
    leaves = [leaf.astype(dtype) for leaf in jax.tree.leaves(norms)]
    logs = sum(jnp.sum(jnp.log2(jnp.where(leaf > 0, leaf, 1))) for leaf in leaves)
    count = sum(jnp.sum((leaf > 0).astype(dtype)) for leaf in leaves)
    unit = jnp.exp2(-jnp.round(logs / jnp.maximum(count, 1)))

    def scaled(leaf):
        info = jnp.finfo(leaf.dtype)
        found = jnp.clip(unit * leaf.astype(dtype), float(info.tiny), float(info.max))
        return jnp.where(leaf > 0, found, 1).astype(leaf.dtype)  # the solve tells of a zero

    return jax.tree.map(scaled, norms)
