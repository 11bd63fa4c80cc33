"""The gradient by backpropagation through the steps of the inner solver."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from ._closures import holds_tracers
from ._implicit import as_it_is
from ._inner import InnerLoss, as_arrays, check_args, check_scalar, loss_holds
from ._loops import CONVOLUTION, iterate, on_cpu
from ._mistakes import OUTER, call, check_steps
from ._mixed_mode import MixedMode, in_mixed_mode, keep_gradient
from ._result import Result, Throw, act_on, check_throw
from ._traced_loss import traced_now
from ._tree import norm, split_key
from ._types import PyTree
from .functions import UnrolledGradFn, UnrolledValueAndGradFn, _described
from .solvers import GradientDescent
from .solvers._gradient_descent import Descent


def unrolled_value_and_grad(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    *,
    solver: GradientDescent,
    truncate: int | None = None,
    window: int | None = None,
    start: int | Array | None = None,
    remat: int | None = None,
    has_aux: bool = False,
    throw: Throw = "raise",
) -> UnrolledValueAndGradFn:
    """A function that computes `outer(theta_T(psi), psi)` and its derivative with respect to psi.

    theta_T is where T steps of gradient descent on the inner loss end, and the derivative goes
    through them: `unrolled_grad` with the value.

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar; called with `key=` where one is given.
        solver: a `GradientDescent`; all of its `steps` are taken.
        truncate: differentiate the last `truncate` steps only; biased, and cheaper.
        window: differentiate the steps `start` to `start + window - 1`, and stop there: the outer
            loss is taken after them.
        start: the first step of the window; None: the window is the last steps. It may be a
            traced or a fresh integer at each call: one program serves all.
        remat: keep only every `remat`-th iterate, and compute what lies between again on the way
            back: the memory of `steps / remat` iterates and of the activations of `remat` steps,
            for the time of one more pass. None: keep everything.
        has_aux: whether `outer` returns `(scalar, aux)`.
        throw: "raise" or "warn" where the gradient is not finite, or a traced `start` leaves no
            room for the window; or "ignore" it.

    Returns:
        A function `value_and_grad_at(psi, theta0, *, outer_args=(), inner_args=(), key=None)`,
        which returns `(value, grad)`, or `((value, aux), grad)` with `has_aux`. theta0 is held
        fixed.

    Raises:
        ValueError: another solver than `GradientDescent`; numbers of steps below 1; a window that
            is not within the steps.
        RuntimeError: a gradient that is not finite, or a traced `start` with no room for the
            window, and `throw="raise"`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel import unrolled_value_and_grad
        >>> from bilevel.solvers import GradientDescent
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> descent = GradientDescent(optax.sgd(0.25), steps=40)
        >>> compute = unrolled_value_and_grad(outer, inner, solver=descent)
        >>> value, grad = compute(jnp.array([1.0, 2.0]), jnp.zeros(2))
        >>> float(value), grad
        (5.0, Array([2.00, 4.00], dtype=float32))
    """
    check_throw(throw)
    window = _check(solver, truncate, window, start, remat)

    @_described(UnrolledValueAndGradFn, "value_and_grad_at")
    def compute(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, PyTree]:
        psi, theta0 = as_arrays(psi, "psi"), as_arrays(theta0, "theta0")
        check_args(outer_args, "outer_args")
        check_args(inner_args, "inner_args")
        solver_key, *_ = split_key(key, 4)  # as in `hypergradient`: the same noise
        problem = (outer, inner, tuple(outer_args), tuple(inner_args))
        if not holds_tracers(psi, theta0, problem, solver, start, key):
            problem = _as_it_is(problem, solver, psi, theta0, solver_key)
        last = solver.steps - window
        first = last if start is None else start
        state = _before(psi, theta0, problem, solver, first, last, solver_key)
        (value, aux), grad = _unrolled(psi, theta0, problem, solver, window, remat, state, has_aux)
        finite = jnp.isfinite(norm(grad))
        result = Result.where(finite, Result.successful, Result.nonfinite)
        if isinstance(start, Tracer):
            outside = (start < 0) | (start > last)
            result = Result.where(outside, Result.no_window, result)
        value, grad = act_on(result, throw, (value, grad))
        return ((value, aux) if has_aux else value), grad

    return compute


def unrolled_grad(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    *,
    solver: GradientDescent,
    truncate: int | None = None,
    window: int | None = None,
    start: int | Array | None = None,
    remat: int | None = None,
    has_aux: bool = False,
    throw: Throw = "raise",
) -> UnrolledGradFn:
    """A function that computes `d outer(theta_T(psi), psi) / d psi` through T descent steps.

    Backpropagation through the solver: the exact derivative of what the solver did, minimum or
    not. What is kept of a step is theta, the optimiser's state and the inner gradient: that
    gradient is differentiated forward over reverse (Kemaev et al., 2025), which keeps none of its
    activations, for about a tenth more time; where the inner loss holds a `custom_vjp`, which has
    no forward mode, they are kept. Where the solver converges it tends to the implicit gradient.

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar; called with `key=` where one is given.
        solver: a `GradientDescent`; all of its `steps` are taken.
        truncate: differentiate the last `truncate` steps only; biased, and cheaper.
        window: differentiate the steps `start` to `start + window - 1`, and stop there: the outer
            loss is taken after them.
        start: the first step of the window; None: the window is the last steps. It may be a
            traced or a fresh integer at each call: one program serves all.
        remat: keep only every `remat`-th step, and take those between again on the way back: the
            memory of `steps / remat` and of `remat` steps, for the time of one more pass. None:
            keep every step.
        has_aux: whether `outer` returns `(scalar, aux)`.
        throw: "raise" or "warn" where the gradient is not finite, or a traced `start` leaves no
            room for the window; or "ignore" it.

    Returns:
        A function `grad_at(psi, theta0, *, outer_args=(), inner_args=(), key=None)`, which returns
        the gradient, shaped like psi, or `(grad, aux)` with `has_aux`. theta0 is held fixed.

    Raises:
        ValueError: another solver than `GradientDescent`; numbers of steps below 1; a window that
            is not within the steps.
        RuntimeError: a gradient that is not finite, or a traced `start` with no room for the
            window, and `throw="raise"`.

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
        outer,
        inner,
        solver=solver,
        truncate=truncate,
        window=window,
        start=start,
        remat=remat,
        has_aux=has_aux,
        throw=throw,
    )

    @_described(UnrolledGradFn, "grad_at")
    def grad(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
    ) -> Any:
        value, gradient = compute(
            psi, theta0, outer_args=outer_args, inner_args=inner_args, key=key
        )
        return (gradient, value[1]) if has_aux else gradient

    return grad


def _check(solver, truncate, window, start, remat) -> int:
    """How many steps are differentiated."""
    if not isinstance(solver, GradientDescent):
        raise ValueError(
            f"solver is a {type(solver).__name__}, which has no steps to differentiate: unrolling "
            "needs a GradientDescent; for other solvers use hypergradient."
        )
    for name, value in (("truncate", truncate), ("window", window), ("remat", remat)):
        if value is not None:
            check_steps(value, name)
    if truncate is not None and window is not None:
        raise ValueError(
            f"truncate={truncate} and window={window} both say how many steps are differentiated: "
            "give one of them."
        )
    if start is not None and window is None:
        raise ValueError(f"start={start} is the beginning of a window: give window, too.")
    asked = window if window is not None else truncate
    width = solver.steps if asked is None else min(asked, solver.steps)
    if start is None:
        return width
    if jnp.shape(start) != () or not jnp.issubdtype(jnp.result_type(start), jnp.integer):
        raise ValueError(f"start={start!r} is no step: give a whole number, or a traced one.")
    if not isinstance(start, Tracer) and not 0 <= int(start) <= solver.steps - width:
        raise ValueError(
            f"start={int(start)} leaves no room for a window of {width} in steps={solver.steps}: "
            f"give 0 to {solver.steps - width}."
        )
    return width


def _as_it_is(problem, solver, psi, theta0, key):
    """The problem with both losses as the programs that they now are."""
    outer, inner, outer_args, inner_args = problem
    start, static = eqx.partition(theta0, eqx.is_inexact_array)
    loss = as_it_is(InnerLoss(inner, static, psi, inner_args), solver, start, key)
    outer = traced_now(outer, OUTER, theta0, psi, *outer_args)
    return outer, loss.inner, outer_args, inner_args


def _before(psi, theta0, problem, solver, first, most, key) -> Descent:
    """The state before the first step that is differentiated, by steps that are not."""
    start, static = eqx.partition(theta0, eqx.is_inexact_array)
    state = solver.begin(start, key)
    if most == 0:
        return state
    _, inner, _, inner_args = problem
    loss = InnerLoss(inner, static, psi, inner_args)
    frozen = _Frozen(solver)
    operands = (loss, jnp.asarray(first))
    state = iterate(frozen.step, frozen.done, operands, state, most, solver.loop)
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, state)


class _Frozen(eqx.Module):
    """The steps of a solver that are taken and not differentiated."""

    solver: GradientDescent

    def step(self, operands, state: Descent) -> Descent:
        arrays, rest = eqx.partition((operands[0], state), eqx.is_inexact_array)
        loss, state = eqx.combine(lax.stop_gradient(arrays), rest)
        return self.solver.descend(loss, state)[0]

    def done(self, operands, state: Descent):
        return state.count >= operands[1]


@eqx.filter_jit
def _unrolled(psi, theta0, problem, solver, steps, remat, state, has_aux):
    outer, inner, outer_args, inner_args = problem
    static = eqx.filter(theta0, eqx.is_inexact_array, inverse=True)

    def of(psi):
        loss = InnerLoss(inner, static, psi, inner_args)
        loss = in_mixed_mode(loss, state.theta, state.key)
        theta = _in_segments(loss, solver, state, steps, remat).theta
        out = call(outer, OUTER, eqx.combine(theta, static), psi, *outer_args)
        value, aux = out if has_aux else (out, None)
        check_scalar(value, "outer")
        return value, aux

    differentiable, fixed = eqx.partition(psi, eqx.is_inexact_array)
    try:
        return jax.value_and_grad(lambda p: of(eqx.combine(p, fixed)), has_aux=True)(differentiable)
    except ValueError as error:
        if "while_loop" not in str(error):
            raise
        raise ValueError(
            "solver's steps hold a loop with no fixed end (a line search, perhaps), which reverse "
            "mode cannot go through: unroll another optimiser, or use hypergradient."
        ) from error


def _in_segments(loss, solver, state, steps, remat):
    if remat is None or remat >= steps:
        return _descend(loss, solver, state, steps)
    whole = steps // remat

    @jax.checkpoint
    def segment(state, _):
        return _descend(loss, solver, state, remat), None

    # An outer loop, for in a straight line XLA may compute all segments again at once.
    state = _repeat(segment, state, whole, _unrolls(loss, solver, state))
    return _descend(loss, solver, state, steps - whole * remat)


def _descend(loss, solver, state, steps):
    unroll = _unrolls(loss, solver, state)

    def step(state, _):
        return solver.descend(loss, state)[0], None

    if isinstance(loss, MixedMode):
        step = jax.checkpoint(step, policy=keep_gradient, prevent_cse=unroll)
    return _repeat(step, state, steps, unroll)


def _repeat(step, state, count, unroll):
    if not unroll:
        return lax.scan(step, state, length=count)[0]
    for _ in range(count):
        state, _ = step(state, None)
    return state


def _unrolls(loss, solver, state) -> bool:
    if solver.loop == "auto":
        return on_cpu() and loss_holds(CONVOLUTION, loss, state.theta, state.key)
    return solver.loop != "loop"
