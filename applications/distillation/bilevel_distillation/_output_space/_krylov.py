"""The toolkit's conjugate gradients with A = J J^T + R, preconditioned with R, in parts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Scalar

from bilevel import Result
from bilevel.inverse_hvp import ConjugateGradients, ConjugateGradientState, KrylovSpace

from .._running import compiled, join, until
from ._jacobian import Jacobian, Tangent, zeros_like
from ._kernel import Kernel, Outputs

MOST_KEPT = 16
"""Directions of one solve that the next one keeps."""

Searched = tuple[Float[Array, "k m classes"], Float[Array, "k m classes"]]


class Solution(eqx.Module):
    """x with A x = b, and how far it can be trusted.

    Attributes:
        x: shape (m, classes).
        mended: x + R^-1 (b - A x), which is R^-1 (b - J J^T x).
        steps: of conjugate gradients; 0 by Cholesky.
        error: estimate of the relative error of x in the norm of A; 0 by Cholesky.
        result: a `bilevel.Result`.
        searched: the first directions of conjugate gradients and A times each.
        pulled: J^T x, where it was had on the way.
    """

    x: Outputs
    mended: Outputs
    steps: Int[Array, ""]
    error: Scalar
    result: Result
    searched: Searched | None
    pulled: Any  # a `Tangent` or None


class _Progress(eqx.Module):
    """Where conjugate gradients are on b / scale; `pulled` is J^T x where there is no space."""

    state: ConjugateGradientState
    scale: Scalar
    pulled: Any  # a `Tangent` or None


def conjugate_gradients(
    jacobian: Jacobian,
    kernel: Kernel,
    b: Outputs,
    rtol: float,
    max_steps: int,
    searched: Searched | None = None,
) -> Solution:
    """Solve `(J J^T + R) x = b`; the arguments are those of `System.solve`."""
    space = None if searched is None else _space(searched)
    steps = ConjugateGradients(
        jnp.asarray(rtol, b.dtype),
        jnp.asarray(max_steps),
        norm="operator",
        keep=min(max_steps, MOST_KEPT),
        precondition=kernel.precondition,
        space=space,
    )
    progress = until(
        lambda progress: progress.state.done,
        lambda progress: _advance(jacobian, kernel, steps, progress),
        _start(steps, b, None if space is not None else jacobian.at),
        max_steps,
    )
    return _finish(kernel, steps, progress)


@compiled
def _space(searched: Searched) -> KrylovSpace:
    return KrylovSpace.make(*searched)


@compiled
def _start(steps: ConjugateGradients, b, at: Tangent | None) -> _Progress:
    largest = jnp.max(jnp.abs(b))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1).astype(b.dtype)
    return _Progress(steps.init(b / scale), scale, zeros_like(at))


def _advance(jacobian: Jacobian, kernel: Kernel, steps, progress: _Progress) -> _Progress:
    if len(jacobian.blocks) == 1:
        return _whole_step(jacobian, kernel, steps, progress)
    tangent = jacobian.pull(progress.state.direction)
    return _step(kernel, steps, progress, tangent, jacobian.push_blocks(tangent))


@compiled
def _whole_step(jacobian: Jacobian, kernel: Kernel, steps, progress: _Progress) -> _Progress:
    (block,) = jacobian.blocks
    tangent = block.pull(progress.state.direction, jacobian.at)
    return _step(kernel, steps, progress, tangent, [block.push(tangent)])


@compiled
def _step(kernel: Kernel, steps: ConjugateGradients, progress: _Progress, tangent, images):
    image = join(images) + kernel(progress.state.direction)
    state = steps.update(progress.state, image)
    pulled = _along(progress.pulled, state.length, tangent)
    return _Progress(state, progress.scale, pulled)


def _along(pulled, length, tangent):
    if pulled is None:
        return None
    return jax.tree.map(lambda total, one: total + length * one, pulled, tangent)


@compiled
def _finish(kernel: Kernel, steps: ConjugateGradients, progress: _Progress) -> Solution:
    state, scale = progress.state, progress.scale
    error, result = steps.finish(state)
    x, rest = state.x * scale, kernel.precondition(state.residual) * scale
    result = Result.where(jnp.all(jnp.isfinite(x)), result, Result.nonfinite)
    pulled = jax.tree.map(lambda leaf: leaf * scale, progress.pulled)
    return Solution(x, x + rest, state.steps, error, result, state.searched, pulled)
