"""Conjugate gradients, one step at a time."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Scalar

from .._result import Result
from .._tree import vdot
from .._types import PyTree
from ._krylov_space import KrylovSpace

Norm = Literal["residual", "operator"]


class ConjugateGradientState(eqx.Module):
    """Where `ConjugateGradients` are.

    Attributes:
        x: the iterate.
        residual: `b - A x`, by recurrence, or afresh after a check.
        direction: the next one to search.
        length: of the last step along its direction.
        steps: taken.
        error: as `ConjugateGradients.norm` measures it, relative.
        done: whether to stop.
        warm: whether they began at an `x0`; part of the structure, not an array.
    """

    x: PyTree[Array]
    residual: PyTree[Array]
    direction: PyTree[Array]
    length: Scalar
    steps: Int[Array, ""]
    error: Scalar
    done: Bool[Array, ""]
    preconditioned: Scalar
    size: Scalar
    indefinite: Bool[Array, ""]
    broken: Bool[Array, ""]
    checking: Bool[Array, ""] | None
    gains: "Gains | None"
    searched: tuple[PyTree[Array], PyTree[Array]] | None
    warm: bool = eqx.field(static=True)


class ConjugateGradients(eqx.Module):
    """The steps of conjugate gradients for `A x = b`, for a loop of one's own.

    `CG` is made of them. They need no operator: whoever loops takes the product in a way of their
    own, in parts or over several devices, and gets at what comes on the way.

    Attributes:
        rtol: stop at this relative error.
        max_steps: at most so many steps.
        norm: what the error is. "residual": `|b - A x| / |b|`. "operator": an estimate of
            `|x - x*| / |x*|` in the norm of A, from the squares of the steps' lengths (Hestenes
            and Stiefel, 1952), which does not depend on how A is conditioned.
        keep: how many of the directions are kept in `state.searched`.
        precondition: `r -> M^-1 r` with M positive definite and near A, or None.
        space: of an earlier solve with the same A, which is not searched again.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import ConjugateGradients
        >>> a, b = jnp.diag(jnp.array([1.0, 2.0, 4.0])), jnp.ones(3)
        >>> steps = ConjugateGradients(rtol=1e-6, max_steps=10)
        >>> state = steps.init(b)
        >>> while not state.done:
        ...     state = steps.update(state, a @ steps.argument(state))
        >>> state.x.round(2)
        Array([1.  , 0.5 , 0.25], dtype=float32)
    """

    rtol: float | Scalar
    max_steps: int | Int[Array, ""]
    norm: Norm = eqx.field(default="residual", static=True)
    keep: int = eqx.field(default=0, static=True)
    precondition: Callable[[PyTree[Array]], PyTree[Array]] | None = None
    space: KrylovSpace | None = None

    def init(
        self,
        b: PyTree[Array],
        x0: PyTree[Array] | None = None,
        *,
        verify: bool = False,
    ) -> ConjugateGradientState:
        """At `x0`, or at zero.

        Args:
            b: the right-hand side.
            x0: a start; one that is worse than zero, or NaN, is none. It costs a product.
            verify: whether the residual is computed afresh in the end, for a product more, whose
                argument is then `x`.
        """
        squared, no = vdot(b, b), jnp.asarray(False)
        zero = jnp.zeros((), squared.dtype)
        x, residual, gained = optax.tree.zeros_like(b), b, zero
        if self.space is not None:
            x, image, gained = self.space.project(b)
            residual = optax.tree.sub(b, image)
        steepest, preconditioned = self._steepest(residual)
        direction = steepest if self.space is None else self.space.clear(steepest)
        checking = None
        if x0 is not None or verify:
            checking = jnp.asarray(x0 is not None)
        gains = searched = None
        if self.norm == "operator":
            gains = Gains(jnp.zeros(4, squared.dtype), gained, gained)
        if self.keep:
            shape = jax.tree.map(lambda leaf: jnp.zeros((self.keep, *leaf.shape), leaf.dtype), b)
            searched = (shape, shape)
        error = jnp.ones((), squared.dtype)
        if self.norm == "residual":
            left = squared if self.space is None else vdot(residual, residual)
            error = _relative(left, squared)
        done = ~(preconditioned > 0) | (error <= self.rtol)
        if x0 is not None:  # what is there already needs no start
            x = optax.tree.where(done, x, x0)
        return ConjugateGradientState(
            x, residual, direction, zero, jnp.zeros((), int), error, done,
            preconditioned, squared, no, no, checking, gains, searched, x0 is not None,
        )  # fmt: skip

    def argument(self, state: ConjugateGradientState) -> PyTree[Array]:
        """What `update` wants A times: the direction, or x where the residual is checked."""
        if state.checking is None:
            return state.direction
        return optax.tree.where(state.checking, state.x, state.direction)

    def update(
        self,
        state: ConjugateGradientState,
        image: PyTree[Array],
        b: PyTree[Array] | None = None,
        *,
        verify: bool | Bool[Array, ""] = False,
    ) -> ConjugateGradientState:
        """The next state: a step, or the residual afresh.

        Args:
            state: the one before.
            image: A times `argument(state)`.
            b: as in `init`; needed where `x0` or `verify` was given there.
            verify: as in `init`.
        """
        check, first = state.checking, state.steps == 0
        checks = check is not None
        check = jnp.asarray(False) if check is None else check
        curvature, along = vdot(state.direction, image), state.preconditioned
        if state.gains is not None:  # the same but for rounding, which a step then mends
            along = vdot(state.direction, state.residual)
        indefinite = ~check & (curvature <= 0)
        length = along / jnp.where(indefinite | check, 1, curvature)
        length = jnp.where(indefinite, 0, length).astype(curvature.dtype)
        # Every step with positive curvature comes nearer in the norm of A, though the residual may
        # rise above that of x = 0 for a while: the last such iterate is the best.
        x = optax.tree.add_scale(state.x, length, state.direction)
        gains = None if state.gains is None else state.gains.add(length * along, first)
        if checks:
            length = jnp.where(check, 1, length)
            start = optax.tree.where(check, b, state.residual)
            residual = optax.tree.add_scale(start, -length, image)
            x = optax.tree.where(check, state.x, x)
            if gains is not None:
                gains = jax.tree.map(lambda *each: jnp.where(check, *each), state.gains, gains)
            if state.warm:
                x, residual, gains = self._restart(b, state, image, x, residual, gains)
        else:
            residual = optax.tree.add_scale(state.residual, -length, image)
        steepest, preconditioned = self._steepest(residual)
        plain = self.precondition is None
        squared = preconditioned if plain else vdot(residual, residual)
        broken = ~check & ~jnp.isfinite(squared)
        x = optax.tree.where(broken, state.x, x)
        steps = state.steps + jnp.where(check, 0, 1)
        if gains is None:
            error = _relative(squared, state.size)
        else:
            error = jnp.where(check & ~first, state.error, gains.error(steps))
        ratio = jnp.where(check, 0, preconditioned / state.preconditioned)
        direction = optax.tree.add_scale(steepest, ratio.astype(squared.dtype), state.direction)
        reached = error <= self.rtol
        ended = reached | indefinite | broken | (steps >= self.max_steps) | ~(preconditioned > 0)
        verify = jnp.asarray(verify)
        at = jnp.where(check, self.keep, state.steps)
        return ConjugateGradientState(
            x,
            residual,
            direction if self.space is None else self.space.clear(direction),
            length,
            steps,
            error,
            jnp.where(check, ~first | reached, ended & ~verify) if checks else ended,
            preconditioned,
            state.size,
            state.indefinite | indefinite,
            state.broken | broken,
            ~check & ended & verify if checks else None,
            gains,
            _keep(state.searched, at, state.direction, image),
            state.warm,
        )

    def finish(self, state: ConjugateGradientState) -> tuple[Scalar, Result]:
        """The error in the end, and a result."""
        error = state.error
        if state.gains is not None:
            # What is left, squared in the norm of M^-1: zero at the end, below it by rounding.
            stopped, total = state.preconditioned <= 0, state.gains.total
            square = -state.preconditioned / jnp.where(total > 0, total, 1)
            error = jnp.where(stopped, jnp.sqrt(jnp.where(stopped, square, 0)), error)
        result = Result.where(error > self.rtol, Result.max_steps_reached, Result.successful)
        result = Result.where(state.indefinite, Result.indefinite, result)
        finite = ~state.broken & jnp.isfinite(state.preconditioned)
        return error, Result.where(finite, result, Result.nonfinite)

    def _steepest(self, residual):
        if self.precondition is None:
            return residual, vdot(residual, residual)
        direction = self.precondition(residual)
        return direction, vdot(residual, direction)

    def _restart(self, b, state, image, x, residual, gains):
        """What a check at the start finds: how good the start is, and what the space adds."""
        check = state.checking & (state.steps == 0)
        worse = check & ~(vdot(residual, residual) <= state.size)
        x = optax.tree.where(worse, optax.tree.zeros_like(b), x)
        residual = optax.tree.where(worse, b, residual)
        known = jnp.where(worse, 0, vdot(state.x, image))
        if self.space is not None:
            more, its_image, squared = self.space.project(residual)
            x = optax.tree.where(check, optax.tree.add(x, more), x)
            residual = optax.tree.where(check, optax.tree.sub(residual, its_image), residual)
            known = known + squared
        if gains is None:
            return x, residual, None
        none = Gains(jnp.zeros_like(gains.last), jnp.zeros_like(known), jnp.maximum(known, 0))
        return x, residual, jax.tree.map(lambda *each: jnp.where(check, *each), none, gains)


class Gains(eqx.Module):
    """Squares of the steps' lengths in the norm of A: the last four, the first, and their sum."""

    last: Float[Array, " 4"]
    first: Scalar
    total: Scalar

    def add(self, gain: Scalar, is_first: Bool[Array, ""]) -> "Gains":
        return Gains(
            jnp.append(self.last[1:], gain),
            jnp.where(is_first, gain, self.first),
            self.total + gain,
        )

    def error(self, steps: Int[Array, ""]) -> Scalar:
        """Estimate of |x - x*| / |x*| in the norm of A.

        The squared error is the sum of the gains still to come, here of a geometric series, as slow
        as the slower of two ratios: that of the last two pairs of gains, and the mean one since
        the first gain.
        """
        before, latest = self.last[0] + self.last[1], self.last[2] + self.last[3]
        known = (steps >= 3) & (before > 0)
        of_pairs = jnp.sqrt(latest / jnp.where(known, before, 1))
        largest = self.last[2:].max()
        mean = (largest / jnp.where(known, self.first, 1)) ** (1 / jnp.maximum(steps - 1, 1))
        ratio = jnp.clip(jnp.maximum(of_pairs, mean), 0, 0.95)
        to_come = largest * ratio / (1 - ratio)
        estimate = jnp.sqrt(to_come / (self.total + to_come))
        return jnp.where(known, estimate, 1).astype(self.total.dtype)


def _relative(squared: Scalar, size: Scalar) -> Scalar:
    return jnp.sqrt(squared / jnp.where(size > 0, size, 1))


def _keep(searched, at, direction, image):
    if searched is None:
        return None

    def put(stacked, one):
        return stacked.at[at].set(one, mode="drop")

    directions, images = searched
    return jax.tree.map(put, directions, direction), jax.tree.map(put, images, image)
