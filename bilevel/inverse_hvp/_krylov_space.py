"""The space of directions that conjugate gradients searched."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Scalar

from .._types import PyTree


class KrylovSpace(eqx.Module):
    """Directions that conjugate gradients searched, which an operator's next solve reuses.

    `CG(keep=16)` returns one as `Adjoint.space`. For another right-hand side of the same operator
    hand it to `CG(space=...)`: what lies in the space is had without a product. For an operator
    that has changed a little, call it as a preconditioner, `CG(preconditioner=space)`: the answer
    is exact in both cases, and the second is positive definite whatever the operator has become.

    Attributes:
        directions: a pytree like theta with a first axis of k, each of length 1 in the norm of the
            operator; those not used are zero.
        images: the operator times each.
        inverse: of their inner products in the operator, near the identity matrix.
        scale: about one over the operator's largest eigenvalue among them.
    """

    directions: PyTree[Float[Array, "k ..."]]
    images: PyTree[Float[Array, "k ..."]]
    inverse: Float[Array, "k k"]
    scale: Scalar

    @staticmethod
    def make(directions: PyTree[Array], images: PyTree[Array]) -> "KrylovSpace":
        """From directions of any length, conjugate up to rounding, and the operator's images."""
        squares = _squares(directions, images)
        used = squares > 0
        scales = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, squares, 1)), 0)
        directions, images = _rescale(scales, directions), _rescale(scales, images)
        values, vectors = jnp.linalg.eigh(_products(directions, images))
        # Where rounding has made directions dependent, one of them is enough.
        values = jnp.where(values > 0.1, 1 / jnp.where(values > 0.1, values, 1), 0)
        lengths = jnp.max(_squares(images, images))
        scale = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 1)
        return KrylovSpace(directions, images, (vectors * values[None, :]) @ vectors.T, scale)

    def project(self, residual: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array], Scalar]:
        """The x in the space that is nearest to the solution of `A x = residual`, A x, and the
        square of x's length in the norm of A.
        """
        along = _along(self.directions, residual)
        shares = self.inverse @ along
        return _mix(shares, self.directions), _mix(shares, self.images), jnp.vdot(shares, along)

    def clear(self, direction: PyTree[Array]) -> PyTree[Array]:
        """`direction` made conjugate to the space."""
        shares = self.inverse @ _along(self.images, direction)
        return optax.tree.sub(direction, _mix(shares, self.directions))

    def __call__(self, v: PyTree[Array]) -> PyTree[Array]:
        """`M^-1 v`, exact on the space and a multiple of v outside: the limited-memory
        preconditioner of Morales and Nocedal (2000), whose pairs are directions and images.
        """
        x, image, _ = self.project(v)
        rest = optax.tree.sub(v, image)
        rest = jax.tree.map(lambda leaf: self.scale.astype(leaf.dtype) * leaf, rest)
        return optax.tree.add(self.clear(rest), x)


def _rescale(scales, stacked):
    return jax.tree.map(
        lambda leaf: scales.astype(leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1)) * leaf, stacked
    )


def _along(stacked, tree):
    """The inner product of each with `tree`."""

    def of(leaf, one):
        return jnp.tensordot(leaf, one, one.ndim, precision="highest")

    return jax.tree.reduce(jnp.add, jax.tree.map(of, stacked, tree))


def _products(stacked, other):
    """The inner product of each with each."""

    def of(leaf, one):
        axes = tuple(range(1, one.ndim))
        return jnp.tensordot(leaf, one, (axes, axes), precision="highest")

    return jax.tree.reduce(jnp.add, jax.tree.map(of, stacked, other))


def _squares(stacked, other):
    def of(leaf, one):
        return jnp.sum(leaf * one, tuple(range(1, one.ndim)))

    return jax.tree.reduce(jnp.add, jax.tree.map(of, stacked, other))


def _mix(shares, stacked):
    def of(leaf):
        return jnp.tensordot(shares.astype(leaf.dtype), leaf, 1, precision="highest")

    return jax.tree.map(of, stacked)
