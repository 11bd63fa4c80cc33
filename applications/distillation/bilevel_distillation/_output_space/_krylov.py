"""Conjugate gradients, preconditioned with R, which can go on in the space of an earlier solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from bilevel import Result

from .._running import compiled, join, until
from ._jacobian import Jacobian, Tangent, zeros_like
from ._kernel import Kernel, Outputs

MOST_KEPT = 16
"""Directions of one solve that the next one keeps."""

Searched = tuple[Float[Array, "k m classes"], Float[Array, "k m classes"]]


class Space(eqx.Module):
    """Directions of an earlier solve with the same A, for the next one.

    Attributes:
        directions: of length 1 in the norm of A; those not used are zero.
        images: A times each.
        inverse: of their inner products in A, near the identity matrix.
    """

    directions: Float[Array, "k m classes"]
    images: Float[Array, "k m classes"]
    inverse: Float[Array, "k k"]

    @staticmethod
    def make(directions: Float[Array, "k m classes"], images: Float[Array, "k m classes"]):
        """From directions of any length, conjugate up to rounding."""
        lengths = jnp.sqrt(jnp.sum(directions * images, (1, 2), keepdims=True))
        scales = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
        directions, images = scales * directions, scales * images
        values, vectors = jnp.linalg.eigh(jnp.tensordot(directions, images, ((1, 2), (1, 2))))
        # Where rounding has made directions dependent, one of them is enough.
        values = jnp.where(values > 0.1, 1 / jnp.where(values > 0.1, values, 1), 0)
        return Space(directions, images, (vectors * values) @ vectors.T)

    def project(self, residual: Outputs) -> tuple[Outputs, Outputs, Scalar]:
        """The x in the space that is nearest to the solution, A x, and the square of x's length
        in the norm of A.
        """
        along = jnp.tensordot(self.directions, residual, 2)
        shares = self.inverse @ along
        x = jnp.tensordot(shares, self.directions, 1)
        return x, jnp.tensordot(shares, self.images, 1), jnp.vdot(shares, along)

    def clear(self, direction: Outputs) -> Outputs:
        """`direction` made conjugate to the space."""
        shares = self.inverse @ jnp.tensordot(self.images, direction, 2)
        return direction - jnp.tensordot(shares, self.directions, 1)


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


class _State(eqx.Module):
    """Where conjugate gradients are; `gains` are the squares of the last four steps' lengths in the
    norm of A, `gained` their sum over all steps, `first` the first of them; `pulled` is J^T x
    where there is no space.
    """

    x: Outputs
    residual: Outputs
    direction: Outputs
    preconditioned: Scalar
    gains: Float[Array, " 4"]
    first: Scalar
    gained: Scalar
    error: Scalar
    steps: Int[Array, ""]
    scale: Scalar
    done: Bool[Array, ""]
    searched: Searched
    pulled: Any  # a `Tangent` or None


def conjugate_gradients(
    jacobian: Jacobian,
    kernel: Kernel,
    b: Outputs,
    tolerance: float,
    max_steps: int,
    searched: Searched | None = None,
) -> Solution:
    """Solve `(J J^T + R) x = b`; the arguments are those of `System.solve`."""
    space = None if searched is None else _space(searched)
    state = _iterate(jacobian, kernel, b, tolerance, max_steps, space)
    return _finish(kernel, state, tolerance)


def _iterate(jacobian: Jacobian, kernel: Kernel, b, tolerance, max_steps, space) -> _State:
    state = _start(kernel, b, max_steps, space, None if space is not None else jacobian.at)
    limits = jnp.asarray(tolerance, b.dtype), jnp.asarray(max_steps)
    return until(
        lambda state: state.done,
        lambda state: _advance(jacobian, kernel, state, limits, space),
        state,
        max_steps,
    )


def _advance(jacobian: Jacobian, kernel: Kernel, state: _State, limits, space) -> _State:
    if len(jacobian.blocks) == 1:
        return _whole_step(jacobian, kernel, state, limits, space)
    tangent = jacobian.pull(state.direction)
    return _step(kernel, state, tangent, jacobian.push_blocks(tangent), limits, space)


@compiled
def _space(searched: Searched) -> Space:
    return Space.make(*searched)


@compiled
def _start(kernel: Kernel, b, max_steps: int, space: Space | None, at: Tangent | None) -> _State:
    largest = jnp.max(jnp.abs(b))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1).astype(b.dtype)
    x, residual, gained = jnp.zeros_like(b), b / scale, jnp.zeros((), b.dtype)
    if space is not None:
        x, image, gained = space.project(residual)
        residual = residual - image
    direction = kernel.precondition(residual)
    preconditioned = jnp.vdot(residual, direction)
    if space is not None:
        direction = space.clear(direction)
    none = jnp.zeros((min(max_steps, MOST_KEPT), *b.shape), b.dtype)
    done = ~(preconditioned > 0)
    return _State(
        x, residual, direction, preconditioned, jnp.zeros(4, b.dtype), gained, gained,
        jnp.ones((), b.dtype), jnp.asarray(0), scale, done, (none, none), zeros_like(at),
    )  # fmt: skip


@compiled
def _whole_step(jacobian: Jacobian, kernel: Kernel, state: _State, limits, space) -> _State:
    (block,) = jacobian.blocks
    tangent = block.pull(state.direction, jacobian.at)
    return _step(kernel, state, tangent, [block.push(tangent)], limits, space)


@compiled
def _step(kernel: Kernel, state: _State, tangent, images, limits, space) -> _State:
    tolerance, max_steps = limits
    direction = state.direction
    image = join(images) + kernel(direction)
    curvature = jnp.vdot(direction, image)
    sound = curvature > 0
    along = jnp.vdot(direction, state.residual)
    length = jnp.where(sound, along / jnp.where(sound, curvature, 1), 0)
    residual = state.residual - length * image
    steepest = kernel.precondition(residual)
    preconditioned = jnp.vdot(residual, steepest)
    gains = jnp.append(state.gains[1:], length * along)
    gained = state.gained + gains[-1]
    first = jnp.where(state.steps == 0, gains[-1], state.first)
    error = _error(gains, first, gained, state.steps)
    steps = state.steps + 1
    done = (error <= tolerance) | (steps >= max_steps) | ~(preconditioned > 0) | ~sound
    after = steepest + preconditioned / state.preconditioned * direction
    return _State(
        state.x + length * direction,
        residual,
        after if space is None else space.clear(after),
        preconditioned,
        gains,
        first,
        gained,
        error,
        steps,
        state.scale,
        done,
        _keep(state.searched, state.steps, direction, image),
        _along(state.pulled, length, tangent),
    )


def _along(pulled, length, tangent):
    if pulled is None:
        return None
    return jax.tree.map(lambda total, one: total + length * one, pulled, tangent)


def _keep(searched, at, direction, image):
    directions, images = searched
    return (
        directions.at[at].set(direction, mode="drop"),
        images.at[at].set(image, mode="drop"),
    )


def _error(gains, first, gained, steps) -> Scalar:
    """Estimate of |x - x*| / |x*| in the norm of A.

    The squared error is the sum of the gains still to come (Hestenes and Stiefel, 1952), here of a
    geometric series, as slow as the slower of two ratios: that of the last two pairs of gains, and
    the mean one since the first gain.
    """
    before, last = gains[0] + gains[1], gains[2] + gains[3]
    known = (steps >= 2) & (before > 0)
    of_pairs = jnp.sqrt(last / jnp.where(known, before, 1))
    mean = (gains[2:].max() / jnp.where(known, first, 1)) ** (1 / jnp.maximum(steps, 1))
    ratio = jnp.clip(jnp.maximum(of_pairs, mean), 0, 0.95)
    to_come = gains[2:].max() * ratio / (1 - ratio)
    return jnp.where(known, jnp.sqrt(to_come / (gained + to_come)), 1).astype(gained.dtype)


@compiled
def _finish(kernel: Kernel, state: _State, tolerance) -> Solution:
    # The square of what is left, in the norm of R^-1: zero at the end, below it by rounding.
    stopped = state.preconditioned <= 0
    square = -state.preconditioned / jnp.where(state.gained > 0, state.gained, 1)
    error = jnp.where(stopped, jnp.sqrt(jnp.where(stopped, square, 0)), state.error)
    result = Result.where(error > tolerance, Result.max_steps_reached, Result.successful)
    x, rest = state.x * state.scale, kernel.precondition(state.residual) * state.scale
    finite = jnp.all(jnp.isfinite(x)) & jnp.isfinite(state.preconditioned)
    result = Result.where(finite, result, Result.nonfinite)
    pulled = jax.tree.map(lambda leaf: leaf * state.scale, state.pulled)
    return Solution(x, x + rest, state.steps, error, result, state.searched, pulled)
