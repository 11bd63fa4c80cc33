"""The gradient by backpropagation through the steps of the inner solver."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PRNGKeyArray, PyTree

from ._descent import descend
from ._inner import InnerLoss, as_arrays, check_scalar, value_and_grad
from ._loops import loops_slowly
from .solvers import GradientDescent


def unrolled_value_and_grad(
    outer: Callable,
    inner: Callable,
    *,
    solver: GradientDescent,
    truncate: int | None = None,
    remat: int | None = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, PyTree]]:
    """As `unrolled_grad`; the function returns `(value, grad)`, or `((value, aux), grad)`."""
    _check(solver, truncate, remat)

    def compute(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple = (),
        inner_args: tuple = (),
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, PyTree]:
        psi, theta0 = as_arrays(psi, "psi"), as_arrays(theta0, "theta0")
        keys = None if key is None else jax.random.split(key, max(solver.steps, 1))
        problem = (outer, inner, tuple(outer_args), tuple(inner_args))
        (value, aux), grad = _unrolled(psi, theta0, problem, solver, truncate, remat, keys, has_aux)
        return ((value, aux) if has_aux else value), grad

    return compute


def unrolled_grad(
    outer: Callable,
    inner: Callable,
    *,
    solver: GradientDescent,
    truncate: int | None = None,
    remat: int | None = None,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """A function that computes `d outer(theta_T(psi), psi) / d psi` through T descent steps.

    Backpropagation through the solver: the exact derivative of what the solver did, minimum or
    not, for T times the memory of one step. Where the solver converges it tends to the implicit
    gradient, which is what it is for here: a judge, and a peer to compare with.

    Args:
        outer: as in `hypergradient`.
        inner: as in `hypergradient`.
        solver: a `GradientDescent`; all of its `steps` are taken.
        truncate: differentiate the last `truncate` steps only; biased, and cheaper.
        remat: keep only every `remat`-th iterate, and compute what lies between again on the way
            back: the memory of `steps / remat` iterates and of the activations of `remat` steps,
            for the time of one more pass. None: keep everything.
        has_aux: whether `outer` returns `(scalar, aux)`.

    Returns:
        `fn(psi, theta0, *, outer_args=(), inner_args=(), key=None)`, which returns the gradient,
        shaped like psi, or `(grad, aux)` with `has_aux`. theta0 is held fixed.

    Raises:
        ValueError: another solver than `GradientDescent`; numbers of steps below 1.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel import unrolled_grad
        >>> from bilevel.solvers import GradientDescent
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> descent = GradientDescent(optax.sgd(0.25), steps=40)
        >>> unrolled_grad(outer, inner, solver=descent)(jnp.array([1.0, 2.0]), jnp.zeros(2))
        Array([2.00, 4.00], dtype=float32)
    """
    compute = unrolled_value_and_grad(
        outer, inner, solver=solver, truncate=truncate, remat=remat, has_aux=has_aux
    )

    def grad(psi: PyTree, theta0: PyTree, **kwargs):
        value, gradient = compute(psi, theta0, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad


def _check(solver, truncate, remat) -> None:
    if not isinstance(solver, GradientDescent):
        raise ValueError(
            f"solver={solver!r} has no steps to differentiate: unrolling needs a GradientDescent; "
            "for other solvers use hypergradient."
        )
    for name, value in (("truncate", truncate), ("remat", remat)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is no number of steps: give 1 or more, or None.")


@eqx.filter_jit
def _unrolled(psi, theta0, problem, solver, truncate, remat, keys, has_aux):
    outer, inner, outer_args, inner_args = problem
    start, static = eqx.partition(theta0, eqx.is_inexact_array)
    differentiated = solver.steps if truncate is None else min(truncate, solver.steps)
    first = solver.steps - differentiated

    def of(psi):
        state = start, solver.transformation.init(start)
        if first:
            frozen = InnerLoss(inner, static, lax.stop_gradient(psi), inner_args)
            state = lax.stop_gradient(_descend(frozen, solver, state, _part(keys, 0, first), first))
        loss = InnerLoss(inner, static, psi, inner_args)
        late = _part(keys, first, solver.steps)
        theta, _ = _in_segments(loss, solver, state, late, differentiated, remat)
        out = outer(eqx.combine(theta, static), psi, *outer_args)
        value, aux = out if has_aux else (out, None)
        check_scalar(value, "outer")
        return value, aux

    differentiable, fixed = eqx.partition(psi, eqx.is_inexact_array)
    return jax.value_and_grad(lambda p: of(eqx.combine(p, fixed)), has_aux=True)(differentiable)


def _in_segments(loss, solver, state, keys, steps, remat):
    if remat is None or remat >= steps:
        return _descend(loss, solver, state, keys, steps)
    whole = steps // remat

    @jax.checkpoint
    def segment(state, keys):
        return _descend(loss, solver, state, keys, remat), None

    # An outer loop, for in a straight line XLA may compute all segments again at once.
    in_loops = (
        None if keys is None else keys[: whole * remat].reshape(whole, remat, *keys.shape[1:])
    )
    state = _repeat(segment, state, in_loops, whole, _unrolls(loss, solver, state, keys))
    rest = _part(keys, whole * remat, steps)
    return _descend(loss, solver, state, rest, steps - whole * remat)


def _descend(loss, solver, state, keys, steps):
    def step(state, key):
        theta, optimiser = state
        _, gradient = value_and_grad(loss, theta, key)
        scale = jnp.asarray(solver.scale)
        return descend(solver.transformation, gradient, optimiser, theta, scale), None

    return _repeat(step, state, keys, steps, _unrolls(loss, solver, state, keys))


def _repeat(step, state, keys, count, unroll):
    if not unroll:
        return lax.scan(step, state, keys, length=count)[0]
    for at in range(count):
        state, _ = step(state, None if keys is None else keys[at])
    return state


def _unrolls(loss, solver, state, keys) -> bool:
    one = None if keys is None else keys[0]
    if solver.loop == "auto":
        return loops_slowly(_gradient, loss, state[0], one)
    return solver.loop != "loop"


def _gradient(loss, theta, key):
    return value_and_grad(loss, theta, key)[1]


def _part(keys, begin, end):
    return None if keys is None else keys[begin:end]
