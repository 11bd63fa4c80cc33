"""Backpropagation through a random part of the rows."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PRNGKeyArray

from ._inner import strongly_typed
from ._loops import loops_slowly
from ._types import PyTree


def subsample_backward(
    fn: Callable[[PyTree, PyTree], PyTree], size: int, microbatch: int | None = None
) -> Callable[..., PyTree]:
    """`fn` with its own values, whose reverse pass goes through `size` random rows only.

    For a row-wise `fn(params, x)`: row i of what it returns depends on row i of x alone. The
    gradient is scaled by n / size and so is unbiased over keys, and so is a Hessian-vector
    product taken as the forward derivative of it (RCIG, section 3.4). The forward pass keeps
    nothing for the way back; the sampled rows are computed again there, so memory is that of
    `size` rows and one micro-batch.

    Args:
        fn: `fn(params, x)`; params and x any pytrees, the leaves of x with n rows. What comes
            back is an array or a pytree of arrays with n rows.
        size: how many rows the reverse pass goes through; all of them if there are no more.
        microbatch: how many rows are computed at a time on the way forward; None: all.

    Returns:
        `subsampled(params, x, *, key)`. Derivatives reach params, x, and arrays that `fn` closes
        over. It has reverse mode, and forward mode over that; not forward mode alone. For a
        Hessian-vector product in little memory use an inverse Hessian with `rederive=True`, as a
        linearised one keeps all rows.

    Raises:
        ValueError: size or microbatch below 1; an `fn` whose output has not n rows.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import subsample_backward
        >>> model = subsample_backward(lambda w, x: jnp.tanh(x @ w), size=2)
        >>> x, key = jnp.eye(4), jax.random.key(0)
        >>> jax.grad(lambda w: jnp.sum(model(w, x, key=key)))(jnp.zeros(4)).sum()
        Array(4., dtype=float32)
    """
    for name, value in (("size", size), ("microbatch", microbatch)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} leaves no row: give 1 or more.")

    def subsampled(params: PyTree, x: PyTree, *, key: PRNGKeyArray) -> PyTree:
        params, x = strongly_typed(params), strongly_typed(x)
        total = _count_rows(x)
        sampled, at_once = min(size, total), min(microbatch or total, total)
        functions = {
            rows: _close(fn, params, x, rows) for rows in {sampled, at_once, total % at_once} - {0}
        }
        return _subsampled((params, x, functions), sampled, at_once, key)

    return subsampled


def _count_rows(x) -> int:
    rows = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x) if eqx.is_array(leaf)}
    if len(rows) != 1 or rows == {()}:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x) if eqx.is_array(leaf)]
        raise ValueError(
            f"x has arrays of shapes {shapes}, but needs the same number of rows, first, in each."
        )
    return rows.pop()[0]


def _take(x, rows):
    return jax.tree.map(lambda leaf: leaf[rows] if eqx.is_array(leaf) else leaf, x)


def _close(fn, params, x, rows):
    """`fn` for so many rows, with what it closes over as leaves that can be differentiated."""
    form = eqx.filter_eval_shape(lambda: (params, _take(x, slice(rows))))
    out = eqx.filter_eval_shape(fn, *form)
    for leaf in jax.tree.leaves(out):
        if jnp.shape(leaf)[:1] != (rows,):
            raise ValueError(
                f"fn returned an array of shape {jnp.shape(leaf)} for {rows} rows of x: it must be "
                "row-wise, one row of output for each row of x."
            )
    return strongly_typed(eqx.filter_closure_convert(fn, *form))


def _forward(differentiable, sampled, at_once, key):
    params, x, functions = differentiable
    total = _count_rows(x)
    fn = functions[at_once]
    if at_once == total:
        return fn(params, x)
    whole = total // at_once
    if loops_slowly(fn, params, _take(x, slice(at_once))):
        starts = range(0, whole * at_once, at_once)
        parts = [fn(params, _take(x, slice(start, start + at_once))) for start in starts]
    else:
        arrays, static = eqx.partition(_take(x, slice(whole * at_once)), eqx.is_array)
        stacked = jax.tree.map(lambda a: a.reshape(whole, at_once, *a.shape[1:]), arrays)
        mapped = lax.map(lambda part: fn(params, eqx.combine(part, static)), stacked)
        parts = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), mapped)]
    if total % at_once:
        rest = _take(x, slice(whole * at_once, None))
        parts.append(functions[total % at_once](params, rest))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


_subsampled = eqx.filter_custom_vjp(_forward)


@_subsampled.def_fwd
def _subsampled_fwd(perturbed, differentiable, sampled, at_once, key):
    return _forward(differentiable, sampled, at_once, key), None


@_subsampled.def_bwd
def _subsampled_bwd(_, cotangent, perturbed, differentiable, sampled, at_once, key):
    params, x, functions = differentiable
    total = _count_rows(x)
    rows = jax.random.permutation(key, total)[:sampled] if sampled < total else jnp.arange(total)
    inputs = (params, _take(x, rows), functions[sampled])
    moving, fixed = eqx.partition(inputs, (*perturbed[:2], perturbed[2][sampled]))

    def of(moving):
        params, x, fn = eqx.combine(moving, fixed)
        return fn(params, x)

    out, backward = jax.vjp(of, moving)
    scaled = jax.tree.map(
        lambda o, c: (
            jnp.zeros_like(o) if c is None else c[rows] * jnp.asarray(total / sampled, c.dtype)
        ),
        out,
        cotangent,
    )
    to_params, to_x, to_function = backward(scaled)[0]
    to_x = jax.tree.map(
        lambda part, like: None if part is None else jnp.zeros_like(like).at[rows].set(part),
        to_x,
        x,
        is_leaf=lambda part: part is None,
    )
    nothing = {count: jax.tree.map(lambda _: None, fn) for count, fn in functions.items()}
    return to_params, to_x, nothing | {sampled: to_function}
