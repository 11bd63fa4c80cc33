"""One step of an optax optimiser."""

import jax
import optax
from jaxtyping import Array, PyTree, Scalar

from ._tree import multiply


def descend(
    transformation: optax.GradientTransformation,
    gradient: PyTree[Array],
    state: PyTree,
    at: PyTree[Array],
    scale: Scalar,
) -> tuple[PyTree[Array], PyTree]:
    """The iterate after `at`, its update multiplied by `scale`, and the optimiser's state."""
    with jax.numpy_dtype_promotion("standard"):  # optax itself mixes dtypes
        updates, state = transformation.update(gradient, state, at)
    return optax.apply_updates(at, multiply(updates, scale)), state
