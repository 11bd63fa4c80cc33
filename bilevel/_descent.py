"""One step of an optax optimiser."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Scalar

from ._tree import cast, dtypes_of, multiply
from ._types import PyTree


def check_optimiser(transformation: Any, name: str = "transformation") -> None:
    if not isinstance(transformation, optax.GradientTransformation):
        given = transformation.__name__ if callable(transformation) else repr(transformation)
        raise ValueError(
            f"{name}={given} is no optax optimiser: pass an instance, for example "
            "`optax.sgd(1e-2)`."
        )


def descend(
    transformation: optax.GradientTransformation,
    gradient: PyTree[Array],
    state: PyTree,
    at: PyTree[Array],
    scale: float | Scalar,
    value: Scalar,
    value_fn: Callable[[PyTree[Array]], Scalar],
) -> tuple[PyTree[Array], PyTree]:
    """The iterate after `at`, its update multiplied by `scale`, and the optimiser's state.

    Line searches and schedules that follow the loss get `value` at `at`, and `value_fn`.
    """
    full, dtypes, before = optax.with_extra_args_support(transformation), dtypes_of(at), state
    # optax itself mixes dtypes and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, state = full.update(
            gradient,
            state,
            at,
            value=value,
            grad=gradient,
            # Where float64 is enabled, line searches go on in it.
            value_fn=lambda at: value_fn(cast(at, dtypes)),
        )
        state = jax.tree.map(_typed_like, state, before)
    return optax.apply_updates(at, multiply(updates, jnp.asarray(scale))), state


def _typed_like(new: Any, old: Any) -> Any:
    is_array = eqx.is_array(new) and eqx.is_array(old)
    return new.astype(old.dtype) if is_array and new.dtype != old.dtype else new
