"""How a fixed number of steps is run: unrolled, dispatched from Python, or in an XLA loop.

On XLA's CPU backend a convolution inside `while_loop`, `scan` or `fori_loop` takes a slow path,
tens of times slower than the same convolution outside. Steps that hold one are therefore
dispatched from Python, or unrolled where they are traced, and everything else is looped.
`benchmarks/loops.py` measures it.
"""

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from ._closures import holds_tracers
from ._jaxpr import holds_primitive
from ._varying import vary, varying, varying_leaves

Loop = Literal["auto", "unroll", "dispatch", "loop"]
Carry = TypeVar("Carry")

MOST_UNROLLED = 64
"""Steps beyond which compiling an unrolled loop takes longer than it saves."""


def check_loop(loop: str) -> None:
    if loop not in ("auto", "unroll", "dispatch", "loop"):
        raise ValueError(
            f"loop={loop!r} is not known: choose 'auto', 'unroll', 'dispatch' or 'loop'."
        )


def iterate(
    step: Callable[[Any, Carry], Carry],
    done: Callable[[Any, Carry], Any],
    operands: Any,
    carry: Carry,
    max_steps: int,
    loop: Loop = "auto",
) -> Carry:
    """Apply `carry = step(operands, carry)` until `done(operands, carry)` or `max_steps` times.

    What the solvers and inverse Hessians here run on, for those of your own: one piece of code
    that is looped, unrolled or dispatched step by step.

    Args:
        step: a method of an Equinox module, or a function of a module's top level, so that a
            compiled step is found again. Numbers that are fields of its module may change from
            call to call without compiling anew.
        done: likewise; `never` where all steps are to be taken.
        operands: what the steps need and do not change: a loss, an operator, arrays.
        carry: what a step changes, a pytree.
        max_steps: at most so many steps.
        loop: "loop", "unroll", "dispatch" or "auto", see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import equinox as eqx, jax.numpy as jnp
        >>> from bilevel import iterate
        >>> class Halving(eqx.Module):
        ...     tol: float
        ...     def step(self, operands, x):
        ...         return x / 2
        ...     def done(self, operands, x):
        ...         return x <= self.tol
        >>> halving = Halving(tol=0.3)
        >>> float(iterate(halving.step, halving.done, None, jnp.asarray(4.0), max_steps=10))
        0.25
    """
    check_loop(loop)
    step, done = _with_arrays(step), _with_arrays(done)
    if max_steps == 0:
        return carry
    way = choose(step, operands, carry, max_steps, loop)
    if way == "loop":
        return _looped(step, done, operands, carry, max_steps)
    if way == "unroll":
        return _unrolled(step, done, operands, carry, max_steps)
    stop = _test(done, operands, carry)
    for count in range(max_steps):
        if isinstance(stop, Tracer):  # `step` closes over a tracer, and now the carry holds it
            return iterate(step, done, operands, carry, max_steps - count, loop)
        if stop:
            break
        carry, stop = _step_and_test(step, done, operands, carry)
    return carry


def never(operands: Any, carry: Any) -> bool:
    """For `iterate`, where all steps are to be taken."""
    return False


def _with_arrays(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of a module whose fields that are floats have become arrays."""
    owner = getattr(method, "__self__", None)
    if not isinstance(owner, eqx.Module):
        return method
    names = [
        field.name
        for field in dataclasses.fields(owner)
        if isinstance(getattr(owner, field.name), float) and not field.metadata.get("static")
    ]
    if not names:
        return method
    arrays = [jnp.asarray(getattr(owner, name)) for name in names]
    owner = eqx.tree_at(lambda at: [getattr(at, name) for name in names], owner, arrays)
    return getattr(owner, method.__name__)


def choose(step: Callable[..., Any], operands: Any, carry: Any, max_steps: int, loop: Loop) -> Loop:
    """Which of the three ways `loop` comes to."""
    if loop == "auto":
        loop = "dispatch" if loops_slowly(step, operands, carry) else "loop"
    if loop == "dispatch" and _is_traced((operands, carry)):
        if max_steps <= MOST_UNROLLED:
            return "unroll"
        warnings.warn(
            f"{max_steps} steps that hold a convolution run in an XLA loop, tens of times slower "
            f"on a CPU: call without jax.jit, or allow at most {MOST_UNROLLED - 1} steps.",
            stacklevel=2,
        )
        return "loop"
    return loop


CONVOLUTION = "conv_general_dilated"


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def loops_slowly(function: Callable[..., Any], *args: Any) -> bool:
    """Whether an XLA loop around `function` would take the slow path."""
    return on_cpu() and holds(CONVOLUTION, function, *args)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def holds(primitive: str, function: Callable[..., Any], *args: Any) -> bool:
    """Whether `function(*args)` calls the primitive of that name, however deep."""
    # What is remembered must not keep tracers alive.
    look = _holds if holds_tracers(function, args) else _remembered
    return look(primitive, function, *args)


def _holds(primitive: str, function: Callable[..., Any], *args: Any) -> bool:
    jaxpr, _, _ = eqx.filter_make_jaxpr(function)(*args)
    return holds_primitive(primitive, jaxpr)


_remembered = eqx.filter_jit(_holds)


@eqx.filter_jit
def _test(done, operands, carry):
    return done(operands, carry)


@eqx.filter_jit
def _step_and_test(step, done, operands, carry):
    carry = step(operands, carry)
    return carry, done(operands, carry)


@eqx.filter_jit
def _unrolled(step, done, operands, carry, max_steps):
    for _ in range(max_steps):
        stop, after = done(operands, carry), step(operands, carry)
        carry = after if stop is False else jax.tree.map(partial(_keep, stop), carry, after)
    return carry


def _keep(stop, old, new):
    return jnp.where(stop, old, new) if eqx.is_array(old) else old


@eqx.filter_jit
def _looped(step, done, operands, carry, max_steps):
    arrays, static = eqx.partition(_alike(step, operands, carry), eqx.is_array)

    def proceed(loop_carry):
        count, arrays = loop_carry
        return (count < max_steps) & ~jnp.asarray(done(operands, eqx.combine(arrays, static)))

    def body(loop_carry):
        count, arrays = loop_carry
        after = step(operands, eqx.combine(arrays, static))
        return count + 1, eqx.filter(after, eqx.is_array)

    _, arrays = lax.while_loop(proceed, body, (jnp.asarray(0), arrays))
    return eqx.combine(arrays, static)


def _alike(step, operands, carry):
    """`carry`, made to differ over the devices of a `shard_map` as what `step` returns does."""
    axes = varying((operands, carry))
    if not axes:
        return carry
    while True:
        after = eqx.filter_eval_shape(step, operands, carry)
        grown = jax.tree.map(
            lambda leaf, then: vary(leaf, varying(then)) if eqx.is_array(leaf) else leaf,
            carry,
            after,
        )
        if varying_leaves(grown) == varying_leaves(carry):
            return grown
        carry = grown
