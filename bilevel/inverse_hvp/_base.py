"""What every way of applying an inverse Hessian shares: scaling, damping, residual, result."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from .._operator import AbstractOperator, Damped, Gram, Wide, as_operator
from .._result import Result, worst
from .._traced_loss import traced_now
from .._tree import (
    cast,
    check_form,
    coarsest,
    divide,
    dots,
    dtypes_of,
    is_wide,
    largest,
    multiply,
    packed,
    split_key,
    widen,
)
from .._types import PyTree
from .._varying import as_shard_map_allows
from ._krylov_space import KrylovSpace

STOCHASTIC_LIMIT = 10.0
"""Residuals of stochastic products are noisy: only one so far above that of v = 0 is a failure."""


class Adjoint(eqx.Module):
    """The solution of `(H + damping I) v = g`, and how far it can be trusted.

    Attributes:
        v: the solution, shaped like theta.
        residual: `|g - (H + damping I) v| / |g|`, computed afresh from `v`; a scalar, 0 if `g` is.
        steps: how many steps the method took, mostly a Hessian-vector product each (the residual
            and a preconditioner's sketch not counted); an integer scalar.
        result: a `Result`.
        losses: for methods that descend, the value of `v.Hv/2 - g.v` before each step, with `g`
            scaled to norm 1 (equation 7 of the RCIG paper up to a constant), else None.
        space: directions that the next solve can reuse, of `CG(keep=...)`, else None.
    """

    v: PyTree[Array]
    residual: Scalar
    steps: Int[Array, ""]
    result: Result
    losses: Float[Array, " steps"] | None = None
    space: KrylovSpace | None = None


class Iterate(eqx.Module):
    """What a method hands back to `AbstractInverseHVP`: its best v and why it stopped.

    `rest`, which is `g - hvp(v)`, is computed by the base class where it is None.
    """

    v: PyTree[Array]
    steps: Int[Array, ""]
    result: Result
    losses: Float[Array, " steps"] | None = None
    rest: PyTree[Array] | None = None
    space: KrylovSpace | None = None


class AbstractInverseHVP(eqx.Module):
    """A way of applying the inverse Hessian: `v` such that `(H + damping I) v = g`.

    A new one is a subclass with one method, `solve`. The base class scales `g` to norm 1 (so that
    tolerances are relative, and gradients of any size are safe in float32), adds the damping,
    computes the residual of what `solve` returns, and says in `result` what went wrong.

    Attributes:
        damping: added to the diagonal of the Hessian; not negative. It biases the solution, and
            the residual, which is that of the damped system, does not show it.
        rederive: derive each Hessian-vector product anew instead of linearising the gradient once.
            Slower; needs less memory. Stochastic inner losses always do.
    """

    damping: float | Scalar = eqx.field(default=0.0, kw_only=True)
    rederive: bool = eqx.field(default=False, kw_only=True, static=True)

    @abc.abstractmethod
    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        """Solve `hvp(v) = g`, where `g` has norm 1.

        Args:
            hvp: `hvp(v)`, or `hvp(v, key)` where `key` is given: the damped Hessian times `v`.
            g: the right-hand side, norm 1, a pytree of arrays.
            v0: where to start, or None.
            key: given where the inner loss is stochastic: use a fresh one at each product.
        """

    @property
    def symmetric_only(self) -> bool:
        """Whether the method needs a symmetric operator, as Hessians are.

        The Jacobian of a fixed point is not: such a method is handed its normal equations.
        """
        return False

    @property
    def traceable(self) -> bool:
        """Whether `solve` can be compiled as a whole, and need not run in Python step by step."""
        return False

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        """The residual above which the solve counts as failed.

        None: only one that is no nearer to the solution than `v = 0` does, and one that is not
        at the solution to the precision of the numbers is `Result.approximate`.
        """
        return None

    def __check_init__(self) -> None:
        if isinstance(self.damping, float | int) and not self.damping >= 0:
            raise ValueError(f"damping={self.damping} is negative: give 0 or more.")

    def __call__(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        *,
        v0: PyTree[Array] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Adjoint:
        """Solve `(H + damping I) v = g`.

        Args:
            hvp: the Hessian as a function of v; of `(v, key)` where `key` is given.
            g: the right-hand side, a pytree of floating-point arrays.
            v0: a warm start, shaped like `g`.
            key: for stochastic Hessian-vector products.
        """
        if not hasattr(hvp, "symmetric"):  # a mere function
            hvp = traced_now(hvp, "hvp(v)", g, *(() if key is None else (key,)))
        operator, dtypes, tolerance = as_operator(hvp), dtypes_of(g), self.tolerance(g)
        if v0 is not None:
            check_form(v0, g, "v0 is", "v", "theta")
        if not is_wide(g):
            operator, g, v0 = Wide(operator, dtypes), widen(g), None if v0 is None else widen(v0)
        undamped = isinstance(self.damping, float | int) and self.damping == 0
        damped = operator if undamped else Damped(operator, jnp.asarray(self.damping))
        unit, scale = _normalize(g)
        start = None if v0 is None else _scale_start(v0, scale)
        solve_key, check_key = split_key(key, 2)
        with as_shard_map_allows(self, (operator, g)):
            if self.symmetric_only and not operator.symmetric:
                iterate = self._solve_normal_equations(damped, unit, solve_key)
            else:
                iterate = self.solve(damped, unit, start, solve_key)
        check_form(iterate.v, g, f"{type(self).__name__}.solve returned", "v", "g")
        judged = (damped, unit, scale, iterate, tolerance, default_rtol(unit, operator), check_key)
        v, residual, result = _judge(*judged)
        v = cast(v, dtypes)
        return Adjoint(v, residual, iterate.steps, result, iterate.losses, iterate.space)

    def many(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        *,
        v0: PyTree[Array] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Adjoint:
        """Solve for several right-hand sides at once, stacked along the first axis of `g`.

        What does not depend on the right-hand side (a factorisation, a sketch) is made once. All
        fields of the `Adjoint` get the same first axis.
        """

        def one(g, v0):
            return self(hvp, g, v0=v0, key=key)

        return eqx.filter_vmap(one, in_axes=(0, None if v0 is None else 0))(g, v0)

    def _solve_normal_equations(self, operator, g, key) -> Iterate:
        # A w = v with A A^T w = g: the operator of this system is symmetric.
        iterate = self.solve(Gram(operator), g, None, key)
        v = _transposed(operator, iterate.v, key)
        return Iterate(v, 2 * iterate.steps, iterate.result, iterate.losses)


@eqx.filter_jit
def _transposed(operator, v, key):
    return operator.T(v, key)


@eqx.filter_jit
def _normalize(g):
    """`g` over its norm, and the norm; without overflow or underflow on the way."""
    parts = packed(g)
    size = largest(parts)
    relative = jnp.asarray(optax.tree.norm(divide(parts, size)))
    nonzero = jnp.where(relative > 0, relative, 1).astype(relative.dtype)
    return divide(divide(g, size), nonzero), size * relative


@eqx.filter_jit
def _scale_start(v0, scale):
    # Where g is 0, so is v.
    nonzero = jnp.where(scale > 0, scale, 1).astype(scale.dtype)
    return optax.tree.where(scale > 0, divide(v0, nonzero), optax.tree.zeros_like(v0))


@eqx.filter_jit
def _judge(hvp, unit, scale, iterate, tolerance, rtol, key):
    rest = iterate.rest
    if rest is None:
        rest = optax.tree.sub(unit, hvp(iterate.v, key))
    # All of it is scaled to the right-hand side's norm: the plain norm will do.
    squared = dots((rest, rest), (iterate.v, iterate.v))
    residual, length = map(jnp.sqrt, squared)
    if tolerance is None:
        result = _approximation(unit, iterate, rest, residual, rtol, stochastic=key is not None)
    else:
        limit = jnp.minimum(2 * jnp.asarray(tolerance, residual.dtype), _useless(residual))
        result = Result.where(residual > limit, Result.max_steps_reached, Result.successful)
    size = length * scale.astype(residual.dtype)
    finite = jnp.isfinite(residual) & jnp.isfinite(size)
    result = Result.where(finite, result, Result.nonfinite)
    # The method itself knows best why it failed.
    result = worst(iterate.result, result)
    # Where g is 0, so is v.
    zero = scale == 0
    result = Result.where(zero, Result.successful, result)
    v = optax.tree.where(zero, optax.tree.zeros_like(iterate.v), multiply(iterate.v, scale))
    return v, jnp.where(zero, 0, residual).astype(residual.dtype), result


def _approximation(unit, iterate, rest, residual, rtol, *, stochastic) -> Result:
    if stochastic:
        failed = residual > STOCHASTIC_LIMIT
        return Result.where(failed, Result.diverged, Result.approximate)
    # In the norm of a positive definite Hessian, v is nearer than 0 where v.Hv < 2 g.v; a v that
    # has hardly left 0 is, too, but of no use.
    along, left = dots((unit, iterate.v), (rest, iterate.v))
    curvature = along - left
    nearer = (along > 0) & (jnp.abs(curvature - along) <= 0.5 * along)
    by_design = iterate.result == Result.approximate
    useful = (residual <= _useless(residual)) | nearer | by_design
    result = Result.where(useful, Result.approximate, Result.diverged)
    exact = (residual <= 2 * rtol) & ~by_design
    return Result.where(exact, Result.successful, result)


def _useless(residual: Scalar) -> float:
    # At v = 0 the residual is 1, up to rounding.
    return 1 - float(jnp.finfo(residual.dtype).eps) ** 0.5


def default_rtol(g: PyTree[Array], operator: AbstractOperator | None = None) -> float:
    """1e-10 where all is float64, 1e-5 in float32; in lower types what their products allow."""
    eps = coarsest(dtypes_of(g) if operator is None else operator.dtypes(g))
    return 1e-10 if eps < 1e-12 else max(1e-5, 4 * eps if eps > 1e-4 else 0.0)


def as_inverse(inverse_hvp: Any) -> AbstractInverseHVP:
    if inverse_hvp is None:
        from ._cg import CG

        return CG()
    if isinstance(inverse_hvp, AbstractInverseHVP):
        return inverse_hvp
    if isinstance(inverse_hvp, type):
        name = inverse_hvp.__name__
        raise ValueError(
            f"inverse_hvp={name} is a class: pass an instance, `{name}(...)`, for example `CG()`."
            if name != "CG"
            else "inverse_hvp=CG is a class: pass an instance, `CG()`."
        )
    raise ValueError(
        f"inverse_hvp is a {type(inverse_hvp).__name__}, which cannot apply an inverse Hessian: "
        "pass one of bilevel.inverse_hvp, for example `CG()`."
    )
