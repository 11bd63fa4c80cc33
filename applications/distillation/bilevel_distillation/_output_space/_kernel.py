"""The part of A that acts on each column alone."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Scalar

Outputs = Float[Array, "m classes"]


class Kernel(eqx.Module):
    """R = ridge I + h h^T, and its inverse in whichever form is smaller: rows by rows, or features
    by features, in a basis of the columns of h. Without features it is ridge I.

    Attributes:
        features: h, shape (m, features), or None.
        gram: h h^T, where features outnumber rows.
        ridge: above 0.
        basis: orthonormal columns Q with h = Q S, where rows outnumber features: there R^-1 b is
            (b - Q Q^T b) / ridge + Q (ridge I + S S^T)^-1 Q^T b, which cancels nothing, unlike
            Woodbury's identity.
        factor: the Cholesky factor of R, or of ridge I + S S^T.
        inverse: and the inverse of the same, for use in conjugate gradients: on a CPU a triangular
            solve leaves threads of the linear algebra library spinning, which slows down what
            follows.
    """

    features: Float[Array, "m features"] | None
    gram: Float[Array, "m m"] | None
    ridge: float | Scalar
    basis: Float[Array, "m k"] | None
    factor: Float[Array, "k k"] | None
    inverse: Float[Array, "k k"] | None

    @staticmethod
    def make(features: Float[Array, "m features"] | None, ridge: float, dtype: Any) -> "Kernel":
        """Factorise; `dtype` is that of the factorisation."""
        if features is None:
            return Kernel(None, None, ridge, None, None, None)
        h, basis = features.astype(dtype), None
        if h.shape[0] > h.shape[1]:
            basis, h = jnp.linalg.qr(h)
        with jax.default_matmul_precision("highest"):
            gram = h @ h.T
        eye = jnp.eye(gram.shape[0], dtype=dtype)
        factor = cho_factor(gram + jnp.asarray(ridge, dtype) * eye, lower=True)[0]
        inverse = cho_solve((factor, True), eye).astype(features.dtype)
        kept = gram.astype(features.dtype) if basis is None else None
        return Kernel(features, kept, ridge, basis, factor, inverse)

    def __call__(self, a: Outputs) -> Outputs:
        """R a."""
        ridge = jnp.asarray(self.ridge, a.dtype)
        if self.features is None:
            return ridge * a
        with jax.default_matmul_precision("highest"):
            if self.gram is not None:
                return self.gram @ a + ridge * a
            return self.features @ (self.features.T @ a) + ridge * a

    def solve(self, b: Outputs) -> Outputs:
        """R^-1 b."""
        if self.factor is None:
            return self.precondition(b)
        factor = (self.factor, True)
        return self._apply(lambda x: cho_solve(factor, x), b, self.factor.dtype)

    def precondition(self, b: Outputs) -> Outputs:
        """R^-1 b, up to rounding in R^-1."""
        if self.inverse is None:
            return b / jnp.asarray(self.ridge, b.dtype)
        inverse = self.inverse
        return self._apply(lambda x: inverse @ x, b, b.dtype)

    def _apply(self, inverse, b, dtype):
        wide = b.astype(dtype)
        if self.basis is None:
            with jax.default_matmul_precision("highest"):
                return inverse(wide).astype(b.dtype)
        q = self.basis.astype(dtype)
        with jax.default_matmul_precision("highest"):
            along = q.T @ wide
            rest = wide - q @ along
            rest = rest - q @ (q.T @ rest)  # what rounding left along Q would be divided by ridge
            x = rest / jnp.asarray(self.ridge, dtype) + q @ inverse(along)
        return x.astype(b.dtype)
