from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PRNGKeyArray, Scalar

from .._inner import InnerLoss, Params, check_scalar
from .._point import Multipliers, Point
from .._stationarity import inverse_unit
from .._tree import cast, divide, dtypes_of, multiply, norm, vdot, wide_dtype, widen
from .._types import PyTree
from ..inverse_hvp import Dense
from ._base import AbstractProblem, check_function
from ._condition import AbstractCondition
from ._second_order import MOST_CHECKED, descends

UNDECIDED = 1e-3
"""Of a constraint that binds or does not, one of bound and multiplier is smaller by this factor."""


CONSTRAINTS = ("equality", "inequality")


class Constrained(AbstractProblem):
    """A minimum under constraints, by its KKT conditions (Karush, 1939; Kuhn and Tucker, 1951).

        theta* = argmin loss(theta, psi)   with   h(theta, psi) = 0   and   g(theta, psi) <= 0

    Stands in the place of an inner loss. Theta is solved for together with the multipliers y and w
    of the equalities h and the inequalities g, at which

        d/d theta (loss + <y, h> + <w, g>) = 0        h = 0        phi(-g, w) = 0

    with `phi(a, b) = a + b - sqrt(a^2 + b^2)` (Fischer, 1992), which is zero where a and b are not
    negative and one of them is zero. Its Jacobian at the solution is that of the active set, so
    that derivatives are exact wherever there are any: where a constraint is at its bound with a
    multiplier of zero there are none, and they end in `Result.degenerate`. A maximum or a saddle,
    at which all of this holds as well, ends in `Result.no_minimum`; that is looked at for up to
    2,000 numbers. The multipliers stand in the record, `inner.multipliers`; no derivative goes
    through those.

    Attributes:
        loss: `loss(theta, psi, *inner_args)`, a scalar.
        equality: `h(theta, psi, *inner_args)`, an array or a pytree of arrays; or None.
        inequality: g, likewise, of which no element may be positive; or None.

    Raises:
        ValueError: no constraint at all, or something that is not a function.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import argmin
        >>> from bilevel.problems import Constrained
        >>> from bilevel.solvers import InteriorPoint
        >>> nearest = Constrained(lambda theta, psi: jnp.sum((theta - psi) ** 2) / 2,
        ...                       equality=lambda theta, psi: jnp.sum(theta) - 1.0,
        ...                       inequality=lambda theta, psi: -theta)
        >>> project = argmin(nearest, solver=InteriorPoint(), with_record=True)
        >>> theta, record = project(jnp.array([0.8, 0.6, -0.5]), jnp.ones(3))  # onto the simplex
        >>> theta, record.multipliers.inequality
        (Array([0.60, 0.40, 0.00], dtype=float32), Array([0.00, 0.00, 0.70], dtype=float32))
    """

    loss: Callable[..., Any]
    equality: Callable[..., Any] | None = None
    inequality: Callable[..., Any] | None = None
    remedy: ClassVar[str] = (
        "`InteriorPoint()`, `Newton(Dense(), steps=20)`, or a function `(F, start) -> point` of "
        "the KKT residual F, whose points hold `theta` and `multipliers`"
    )

    def __check_init__(self) -> None:
        check_function(self.loss, "loss", "loss(theta, psi, *args)")
        if self.equality is None and self.inequality is None:
            raise ValueError(
                "equality and inequality are both None, which leaves nothing but a loss: pass that "
                "loss itself as inner, or a constraint `equality(theta, psi, *args)`."
            )
        for name in ("equality", "inequality"):
            if getattr(self, name) is not None:
                check_function(getattr(self, name), name, f"{name}(theta, psi, *args)")

    def __call__(self, theta: PyTree, psi: PyTree, *args: Any, **kwargs: Any) -> Any:
        value = self.loss(theta, psi, *args, **kwargs)
        check_scalar(value, "loss")
        return value, *(self._held(name, theta, psi, args, kwargs) for name in CONSTRAINTS)

    def _held(self, name: str, theta: PyTree, psi: PyTree, args: Any, kwargs: Any) -> Any:
        function = getattr(self, name)
        found = function and function(theta, psi, *args, **kwargs)
        if any(jnp.issubdtype(jnp.result_type(leaf), jnp.bool_) for leaf in jax.tree.leaves(found)):
            raise ValueError(
                f"{name} returns whether it holds: return a number that is "
                f"{'0' if name == 'equality' else 'at most 0'} where it does."
            )
        return found

    def over(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> "Constrained":
        constraints = (self.equality, self.inequality)
        return Constrained(change(self.loss), *(f and change(f) for f in constraints))

    def inverse_hvp(self) -> Dense:
        return Dense()

    def begin(self, loss: InnerLoss, theta0: Params) -> tuple[InnerLoss, Params]:
        if loss.has_aux:
            raise ValueError(
                "inner_has_aux=True does not go with a Constrained problem, whose loss returns a "
                "scalar: compute what else you need at theta* in the outer loss, with has_aux=True."
            )
        units, multipliers = lax.stop_gradient(_begin(loss, theta0))
        held = eqx.tree_at(lambda at: at.units, loss, units, is_leaf=lambda at: at is None)
        return held, Point(theta0, multipliers)

    def given(self, loss: Any) -> Callable[..., Any]:
        return _Residual(KKT(loss))

    def condition(self, loss: Any) -> AbstractCondition:
        return KKT(loss)

    def multipliers(self, loss: Any, at: Params) -> Multipliers:
        equality, inequality = loss.units.of_multipliers()
        found = at.multipliers
        return Multipliers(
            multiply(found.equality, equality), multiply(found.inequality, inequality)
        )

    def rejoin(self, loss: Any, theta: Params, multipliers: Any) -> Params:
        equality, inequality = loss.units.of_multipliers()
        found = Multipliers(
            divide(multipliers.equality, equality), divide(multipliers.inequality, inequality)
        )
        return Point(theta, found)


class Units(eqx.Module):
    """Powers of two that bring the gradient of the loss, and the Jacobians of the constraints, to
    a size of 1 to 2 at the start, so that nothing depends on their units.
    """

    loss: Scalar
    equality: Scalar
    inequality: Scalar
    length: Scalar
    """How far the inequalities are from their bounds at the start, in these units."""

    def of_multipliers(self) -> tuple[Scalar, Scalar]:
        """What those of the problem in its units are multiplied by."""
        return self.equality / self.loss, self.inequality / self.loss


@eqx.filter_jit
def _begin(loss: InnerLoss, theta0: Params) -> tuple[Units, Multipliers]:
    dtype = wide_dtype(theta0)

    def constraints(theta):
        return _arrays(loss(theta)[1:], dtype)

    (h, g), pull = jax.vjp(constraints, theta0)
    gradient = jax.grad(lambda theta: loss(theta)[0].astype(dtype))(theta0)
    of_constraints = []
    for at in (0, 1):
        # The length of a random combination of the rows estimates that of a row.
        noise = [jax.tree.map(jnp.zeros_like, h), jax.tree.map(jnp.zeros_like, g)]
        noise[at] = _noise(noise[at])
        rows = sum(leaf.size for leaf in jax.tree.leaves(noise[at]))
        length = norm(pull(tuple(noise))[0]) / max(rows, 1) ** 0.5
        of_constraints.append(inverse_unit(length).astype(dtype))
    multipliers = Multipliers(jax.tree.map(jnp.zeros_like, h), jax.tree.map(jnp.ones_like, g))
    equality, inequality = of_constraints
    length = norm(multiply(g, inequality)) if jax.tree.leaves(g) else jnp.zeros((), dtype)
    of_loss = inverse_unit(norm(gradient)).astype(dtype)
    return Units(of_loss, equality, inequality, length), multipliers


def _noise(tree):
    flat, unravel = ravel_pytree(tree)
    drawn = np.random.default_rng(0).normal(size=flat.shape)
    return unravel(jnp.asarray(drawn, flat.dtype))


def _arrays(tree: PyTree, dtype) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def scaled(loss: Any, theta: Params, key=None) -> tuple[Scalar, Scalar, PyTree, PyTree]:
    """The loss; and the loss, h and g in the units of the problem."""
    value, *constraints = loss(theta) if key is None else loss(theta, key=key)
    units, dtype = loss.units, wide_dtype(theta)
    h, g = _arrays(constraints, dtype)
    value = value.astype(dtype)
    return value, value * units.loss, multiply(h, units.equality), multiply(g, units.inequality)


class KKT(AbstractCondition):
    """The KKT conditions as a function of theta and the multipliers.

    Without inequalities the Jacobian is symmetric, but never definite, which is what solvers of
    symmetric systems rely on.
    """

    loss: Any
    symmetric: ClassVar[bool] = False

    def uses_psi(self) -> bool:
        return self.loss.inner.uses_psi(self.loss)

    def _gradient(self, at: Params, multipliers: Multipliers, key=None):
        """That of the Lagrangian; and the loss, h and g."""

        def lagrangian(at):
            value, loss, h, g = scaled(self.loss, at, key)
            terms = [vdot(m, c) for m, c in _pairs(multipliers, h, g)]
            return sum(terms, loss), (value, h, g)

        return jax.grad(lagrangian, has_aux=True)(at)

    def value_and_residual(self, theta: Params, key: PRNGKeyArray | None) -> tuple[Scalar, Params]:
        multipliers = theta.multipliers
        gradient, (value, h, g) = self._gradient(theta.theta, multipliers, key)
        slack = jax.tree.map(lambda g, w: _fischer(-g, w), g, multipliers.inequality)
        return value, Point(gradient, Multipliers(h, slack))

    def _length(self, theta: Params) -> Scalar:
        length = jnp.maximum(norm(theta.theta), self.loss.units.length)
        return jnp.where(length > 0, length, 1)

    def degenerate(self, theta: Params) -> Bool[Array, ""] | None:
        *_, g = scaled(self.loss, theta.theta)
        if not jax.tree.leaves(g):
            return None
        length = self._length(theta)

        def undecided(g, w):
            a, b = jnp.abs(g) / length.astype(g.dtype), jnp.abs(w)
            return jnp.any(jnp.minimum(a, b) >= UNDECIDED * jnp.maximum(a, b))

        found = jax.tree.map(undecided, g, theta.multipliers.inequality)
        return jnp.any(jnp.stack(jax.tree.leaves(found)))

    def descends(self, theta: Params) -> Bool[Array, ""] | None:
        flat, unravel = ravel_pytree(widen(theta.theta))
        if flat.size > MOST_CHECKED:
            return None
        dtypes = dtypes_of(theta.theta)

        def gradient(flat):
            found, _ = self._gradient(cast(unravel(flat), dtypes), theta.multipliers)
            return ravel_pytree(widen(found))[0]

        def constraints(flat):
            return ravel_pytree(scaled(self.loss, cast(unravel(flat), dtypes))[2:])[0]

        *_, h, g = scaled(self.loss, theta.theta)
        length = self._length(theta)

        def binds(g, w):  # or may: that leaves fewer ways down
            return jnp.abs(w) >= UNDECIDED * jnp.abs(g) / length.astype(g.dtype)

        bound = jax.tree.map(binds, g, theta.multipliers.inequality)
        held = jax.tree.map(lambda h: jnp.ones(h.shape, bool), h)
        return descends(gradient, constraints, ravel_pytree((held, bound))[0], flat)


def _pairs(multipliers: Multipliers, h: PyTree, g: PyTree) -> list[tuple[PyTree, PyTree]]:
    pairs = [(multipliers.equality, h), (multipliers.inequality, g)]
    return [(m, c) for m, c in pairs if jax.tree.leaves(c)]


def _fischer(a: Array, b: Array) -> Array:
    """`a + b - sqrt(a^2 + b^2)`, without cancellation, and with a derivative of 1 at the origin."""
    squared = a**2 + b**2
    nonzero = squared > 0
    root = jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1)), 0)
    total = a + b
    below = total + root
    apart = total > 0
    return jnp.where(apart, 2 * a * b / jnp.where(apart, below, 1), total - root)


class _Residual(eqx.Module):
    condition: KKT

    def __call__(self, point: Point) -> Point:
        return self.condition.residual(point, None)
