"""The last layer in closed form, and losses reduced to the body of a network."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Scalar

from ._types import PyTree

Form = Literal["auto", "kernel", "feature"]


class RidgeHead(eqx.Module):
    """The last layer that solves a ridge regression, see `ridge_head`.

    Attributes:
        weight: W*, shape (features, outputs).
        features: F, the rows it was fitted on, shape (n, features).
        targets: Y, shape (n, outputs).
        ridge: lambda.
    """

    weight: Float[Array, "features outputs"]
    features: Float[Array, "n features"]
    targets: Float[Array, "n outputs"]
    ridge: float | Scalar

    def __call__(self, features: Float[Array, "m features"]) -> Float[Array, "m outputs"]:
        """`features @ weight`."""
        return features @ self.weight

    def objective(self) -> Scalar:
        """The minimum `|F W* - Y|^2 / 2 + lambda |W*|^2 / 2`."""
        with jax.default_matmul_precision("highest"):
            residual = self(self.features) - self.targets
        squares = jnp.sum(self.weight**2)
        return 0.5 * (jnp.sum(residual**2) + jnp.asarray(self.ridge, squares.dtype) * squares)


def ridge_head(
    features: Float[Array, "n features"],
    targets: Float[Array, "n outputs"],
    ridge: float | Scalar,
    *,
    form: Form = "auto",
    dtype: Any = None,
) -> RidgeHead:
    """The last layer in closed form: `W* = argmin |F W - Y|^2 / 2 + ridge |W|^2 / 2`.

        kernel form:   W* = F^T (F F^T + ridge I)^-1 Y         an n x n system
        feature form:  W* = (F^T F + ridge I)^-1 F^T Y         a features x features system

    (equation 3 of the RCIG paper; with Y = y - J tangent, its equation 4), by Cholesky.

    Args:
        features: F, the last hidden layer, shape (n, features).
        targets: Y, shape (n, outputs).
        ridge: lambda, above 0.
        form: "kernel", "feature", or "auto": whichever system is smaller.
        dtype: the floating-point type of the solve, e.g. `jnp.float64` where float32 is too
            coarse for the condition number; None: that of the features.

    Returns:
        A `RidgeHead`: call it on features, or read `weight` and `objective()`.

    Raises:
        ValueError: shapes that do not match, a ridge that is not positive, an unknown form, or
            float64 asked for with x64 switched off.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import ridge_head
        >>> head = ridge_head(jnp.eye(2), jnp.array([[1.0], [2.0]]), ridge=1.0)
        >>> head(jnp.eye(2))
        Array([[0.50],
               [1.00]], dtype=float32)
    """
    _check(features, targets, ridge, form, dtype)
    low = jnp.finfo(features.dtype).bits < 32  # such a type has no factorisation
    solve_dtype = (jnp.float32 if low else features.dtype) if dtype is None else dtype
    f, y = features.astype(solve_dtype), targets.astype(solve_dtype)
    rows, width = f.shape
    ridge_value = jnp.asarray(ridge, solve_dtype)
    # Accelerators round matrix products to fewer bits than a small ridge can bear.
    with jax.default_matmul_precision("highest"):
        if form == "kernel" or (form == "auto" and rows <= width):
            weight = f.T @ _solve(f @ f.T, ridge_value, y)
        else:
            weight = _solve(f.T @ f, ridge_value, f.T @ y)
    return RidgeHead(weight.astype(features.dtype), features, targets, ridge)


def _solve(gram, ridge, right):
    shifted = gram + ridge * jnp.eye(gram.shape[0], dtype=gram.dtype)
    return cho_solve(cho_factor(shifted), right)


def _check(features, targets, ridge, form, dtype) -> None:
    if features.ndim != 2 or targets.ndim != 2 or features.shape[0] != targets.shape[0]:
        raise ValueError(
            f"features of shape {features.shape} and targets of shape {targets.shape} do not "
            "match: pass two matrices with the same number of rows."
        )
    if not isinstance(ridge, Tracer) and not ridge > 0:
        raise ValueError(f"ridge={ridge} is not positive: give a number above 0, e.g. 1e-3.")
    if form not in ("auto", "kernel", "feature"):
        raise ValueError(f"form={form!r} is not known: choose 'auto', 'kernel' or 'feature'.")
    wide = dtype is not None and jnp.dtype(dtype) == jnp.dtype("float64")
    if wide and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "dtype=float64 needs 64-bit numbers, which jax has switched off: call "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )


def reparameterize_last_layer(
    loss: Callable[..., Any],
    last_layer: Callable[..., tuple[Float[Array, "n features"], Float[Array, "n outputs"]]],
    ridge: float | Scalar,
    *,
    form: Form = "auto",
    dtype: Any = None,
) -> Callable[..., Any]:
    """A loss in (body, head) as a loss in the body alone, the head being the best one for it.

        reduced(body, psi, *args) = loss(body, head*(body, psi), psi, *args)

    (equations 5 and 6 of the RCIG paper). Derivatives flow through `head*`, to the body and psi.

    Args:
        loss: `loss(body, head, psi, *args)`, where `head` is a `RidgeHead`; may return anything.
        last_layer: `last_layer(body, psi, *args)` returns the features (n, features) of the rows
            that the head is fitted on, and its targets (n, outputs).
        ridge: lambda of `ridge_head`.
        form: see `ridge_head`.
        dtype: see `ridge_head`.

    Returns:
        `reduced(body, psi, *args)`.
    """

    def reduced(body: PyTree, psi: PyTree, *args: Any) -> Any:
        features, targets = last_layer(body, psi, *args)
        head = ridge_head(features, targets, ridge, form=form, dtype=dtype)
        return loss(body, head, psi, *args)

    return reduced
