"""Linear algebra in the space of the outputs on the distilled images: m rows, C columns.

What is solved is `A x = b` with A = J J^T + R: J the Jacobian of the outputs with respect to the
parameters that move, and R = ridge I + h h^T, which acts on each column alone. A has m C rows: few
of them are factorised; for more, conjugate gradients are preconditioned with R.

Where nothing is traced, as on a CPU, J is kept in blocks of rows and each program holds one block:
it compiles in seconds whatever m, and its activations stay in the caches. Under a trace J is one
block.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from bilevel import Result

from ._parts import compiled, join

LinearSolver = Literal["auto", "cholesky", "cg"]
Outputs = Float[Array, "m classes"]
Tangent = PyTree[Array]

MOST_FACTORISED = 100
"""Rows of A, m C, up to which "auto" factorises it. At 100 rows, on two CPU cores, a meta-iteration
takes 1.1 times as long as with conjugate gradients to 1 %, and is right to rounding
(`benchmarks/meta_step.py`, mnist10).
"""

MOST_UNROLLED = 16
"""Steps up to which traced conjugate gradients are unrolled on a CPU, whose loops slow
convolutions down tens of times.
"""


Searched = tuple[Float[Array, "k m classes"], Float[Array, "k m classes"]]

MOST_KEPT = 16
"""Directions of one solve that the next one keeps."""


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
    """

    x: Outputs
    mended: Outputs
    steps: Int[Array, ""]
    error: Scalar
    result: Result
    searched: Searched | None


class Kernel(eqx.Module):
    """R = ridge I + h h^T, and its inverse in whichever form is smaller: rows by rows, or features
    by features, in a basis of the columns of h. Without features it is ridge I.

    Attributes:
        features: h, shape (m, features), or None.
        ridge: above 0.
        basis: orthonormal columns Q with h = Q S, where rows outnumber features: there R^-1 b is
            (b - Q Q^T b) / ridge + Q (ridge I + S S^T)^-1 Q^T b, which cancels nothing, unlike
            Woodbury's identity.
        factor: the Cholesky factor of R, or of ridge I + S S^T.
        inverse: and the inverse of the same, for use in conjugate gradients: on a CPU a triangular
            solve leaves threads of the linear algebra library spinning, which slows down what
            follows.
    """

    features: Float[Array, "m features"] | None
    ridge: float | Scalar
    basis: Float[Array, "m k"] | None
    factor: Float[Array, "k k"] | None
    inverse: Float[Array, "k k"] | None

    @staticmethod
    def make(features: Float[Array, "m features"] | None, ridge: float, dtype: Any) -> "Kernel":
        """Factorise; `dtype` is that of the factorisation."""
        if features is None:
            return Kernel(None, ridge, None, None, None)
        h, basis = features.astype(dtype), None
        if h.shape[0] > h.shape[1]:
            basis, h = jnp.linalg.qr(h)
        with jax.default_matmul_precision("highest"):
            gram = h @ h.T
        eye = jnp.eye(gram.shape[0], dtype=dtype)
        factor = cho_factor(gram + jnp.asarray(ridge, dtype) * eye, lower=True)[0]
        inverse = cho_solve((factor, True), eye).astype(features.dtype)
        return Kernel(features, ridge, basis, factor, inverse)

    def __call__(self, a: Outputs) -> Outputs:
        """R a."""
        ridge = jnp.asarray(self.ridge, a.dtype)
        if self.features is None:
            return ridge * a
        with jax.default_matmul_precision("highest"):
            return self.features @ (self.features.T @ a) + ridge * a

    def solve(self, b: Outputs) -> Outputs:
        """R^-1 b."""
        if self.factor is None:
            return self.precondition(b)
        factor = (self.factor, True)
        return self._apply(lambda x: cho_solve(factor, x), b, self.factor.dtype)

    def precondition(self, b: Outputs) -> Outputs:
        """R^-1 b, up to rounding in R^-1."""
        if self.inverse is None:
            return b / jnp.asarray(self.ridge, b.dtype)
        inverse = self.inverse
        return self._apply(lambda x: inverse @ x, b, b.dtype)

    def _apply(self, inverse, b, dtype):
        wide = b.astype(dtype)
        if self.basis is None:
            with jax.default_matmul_precision("highest"):
                return inverse(wide).astype(b.dtype)
        q = self.basis.astype(dtype)
        with jax.default_matmul_precision("highest"):
            along = q.T @ wide
            rest = wide - q @ along
            rest = rest - q @ (q.T @ rest)  # what rounding left along Q would be divided by ridge
            x = rest / jnp.asarray(self.ridge, dtype) + q @ inverse(along)
        return x.astype(b.dtype)


class Linearized(eqx.Module):
    """Rows of J, linearised once: products need no primal pass, and the activations are kept."""

    linear: Any
    rows: int = eqx.field(static=True)

    def push(self, tangent: Tangent) -> Outputs:
        return self.linear(tangent)

    def pull(self, a: Outputs, like: Tangent) -> Tangent:
        return jax.linear_transpose(self.linear, like)(a)[0]


class Rederived(eqx.Module):
    """Rows of J, derived anew in each product: half as many operations again; nothing is kept."""

    function: Any
    at: Tangent
    rows: int = eqx.field(static=True)

    def push(self, tangent: Tangent) -> Outputs:
        return jax.jvp(self.function, (self.at,), (tangent,))[1]

    def pull(self, a: Outputs, like: Tangent) -> Tangent:
        return jax.vjp(self.function, like)[1](a)[0]


class Rows(eqx.Module):
    """J as a matrix of m C rows."""

    matrix: Float[Array, "mc parameters"]
    rows: int = eqx.field(static=True)

    def push(self, tangent: Tangent) -> Outputs:
        return (self.matrix @ ravel_pytree(tangent)[0]).reshape(self.rows, -1)

    def pull(self, a: Outputs, like: Tangent) -> Tangent:
        return ravel_pytree(like)[1](a.reshape(-1) @ self.matrix)


class Jacobian(eqx.Module):
    """J in blocks of rows.

    Attributes:
        blocks: one after the other.
        starts: the first row of each.
        at: the parameters, for their form.
    """

    blocks: tuple[Any, ...]
    starts: tuple[Int[Array, ""], ...]
    at: Tangent

    @staticmethod
    def make(blocks, at: Tangent) -> "Jacobian":
        ends = [0]
        for block in blocks:
            ends.append(ends[-1] + block.rows)
        return Jacobian(tuple(blocks), tuple(jnp.asarray(end) for end in ends[:-1]), at)

    def push(self, tangent: Tangent) -> Outputs:
        """J tangent."""
        return join([_push(block, tangent) for block in self.blocks])

    def pull(self, a: Outputs) -> Tangent:
        """J^T a."""
        if len(self.blocks) == 1:
            return _pull(self.blocks[0], self.at, a)
        total = _zeros(self.at)
        for block, start in zip(self.blocks, self.starts, strict=True):
            total = _add_pull(block, self.at, a, start, total)
        return total


class System(eqx.Module):
    """A = J J^T + R.

    Attributes:
        jacobian, kernel: J and R.
        factor: the Cholesky factor of A, or None for conjugate gradients.
    """

    jacobian: Jacobian
    kernel: Kernel
    factor: Float[Array, "mc mc"] | None

    @staticmethod
    def make(jacobian: Jacobian, kernel: Kernel) -> "System":
        """Factorised where J is a matrix."""
        (first, *_) = jacobian.blocks
        factor = _factorise(first, kernel) if isinstance(first, Rows) else None
        return System(jacobian, kernel, factor)

    def solve(
        self, b: Outputs, tolerance: float, max_steps: int, searched: Searched | None = None
    ) -> Solution:
        """Solve `A x = b`.

        Args:
            b: shape (m, classes).
            tolerance: relative error of x, in the norm of A, at which conjugate gradients stop.
            max_steps: and their greatest number.
            searched: of an earlier solution: those directions are not searched again.
        """
        if self.factor is not None:
            return _by_cholesky(self.factor, b)
        space = None if searched is None else _space(searched)
        state = _conjugate_gradients(self, b, tolerance, max_steps, space)
        return _finish(self.kernel, state, tolerance)


@compiled
def _push(block, tangent):
    return block.push(tangent)


@compiled
def _pull(block, at, a):
    return block.pull(a, at)


@compiled
def _add_pull(block, at, a, start, total):
    pulled = block.pull(lax.dynamic_slice_in_dim(a, start, block.rows), at)
    return jax.tree.map(jnp.add, total, pulled)


@compiled
def _zeros(at):
    return jax.tree.map(jnp.zeros_like, at)


@compiled
def _factorise(block: Rows, kernel: Kernel):
    dtype = block.matrix.dtype if kernel.factor is None else kernel.factor.dtype
    rows = block.matrix.astype(dtype)
    classes = rows.shape[0] // block.rows
    with jax.default_matmul_precision("highest"):
        gram = rows @ rows.T
    by_class = gram.reshape(block.rows, classes, block.rows, classes)
    each = jnp.arange(classes)
    by_class = by_class.at[:, each, :, each].add(kernel(jnp.eye(block.rows, dtype=dtype)))
    return cho_factor(by_class.reshape(gram.shape), lower=True)[0]


@compiled
def _by_cholesky(factor, b) -> Solution:
    x = cho_solve((factor, True), b.reshape(-1).astype(factor.dtype))
    finite = jnp.all(jnp.isfinite(x))
    result = Result.where(finite, Result.successful, Result.nonfinite)
    zero = jnp.zeros((), b.dtype)
    x = x.reshape(b.shape).astype(b.dtype)
    return Solution(x, x, jnp.asarray(0), zero, result, None)


class _State(eqx.Module):
    """Of conjugate gradients; `gains` are the squares of the last four steps' lengths in the
    norm of A, `gained` their sum over all steps, `first` the first of them.
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


def _conjugate_gradients(system: System, b, tolerance, max_steps, space) -> _State:
    state = _start(system.kernel, b, max_steps, space)
    limits = jnp.asarray(tolerance, b.dtype), jnp.asarray(max_steps)
    if not isinstance(b, Tracer):
        while not state.done:
            state = _advance(system, state, limits, space)
        return state
    if jax.default_backend() == "cpu" and max_steps <= MOST_UNROLLED:
        for _ in range(max_steps):
            after = _advance(system, state, limits, space)
            state = jax.tree.map(lambda old, new: jnp.where(state.done, old, new), state, after)  # noqa: B023
        return state
    return lax.while_loop(lambda s: ~s.done, lambda s: _advance(system, s, limits, space), state)


def _advance(system: System, state: _State, limits, space) -> _State:
    jacobian = system.jacobian
    if len(jacobian.blocks) == 1:
        return _whole_step(system, state, limits, space)
    tangent = jacobian.pull(state.direction)
    images = [_push(block, tangent) for block in jacobian.blocks]
    return _step(system.kernel, state, images, limits, space)


@compiled
def _space(searched: Searched) -> Space:
    return Space.make(*searched)


@compiled
def _start(kernel: Kernel, b, max_steps: int, space: Space | None) -> _State:
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
        jnp.ones((), b.dtype), jnp.asarray(0), scale, done, (none, none),
    )  # fmt: skip


@compiled
def _whole_step(system: System, state: _State, limits, space) -> _State:
    jacobian = system.jacobian
    (block,) = jacobian.blocks
    image = block.push(block.pull(state.direction, jacobian.at))
    return _step(system.kernel, state, [image], limits, space)


@compiled
def _step(kernel: Kernel, state: _State, images, limits, space) -> _State:
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
    )


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
    return Solution(x, x + rest, state.steps, error, result, state.searched)
