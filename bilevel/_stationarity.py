"""How far theta is from a solution, free of the units of the loss."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Scalar

from ._result import Result
from ._tree import coarsest, divide, dots, dtypes_of, norm, widen
from ._types import PyTree


def near_enough(theta: PyTree[Array]) -> float:
    """The relative distance up to which theta counts as the solution.

    1e-5 in float64, 1e-4 in float32, and what can be had in lower precision. benchmarks/fuzz.py
    counts the hypergradients at such a theta that are off by more than 1 %.
    """
    eps = coarsest(dtypes_of(theta))
    return 1e-5 if eps < 1e-12 else max(1e-4, 8 * eps if eps > 1e-4 else 0.0)


def step_to_stop_at(theta: PyTree[Array]) -> float:
    """The relative length of a step below which a solver that was told no `tol` stops."""
    eps = coarsest(dtypes_of(theta))
    return 1e-10 if eps < 1e-12 else 1e-6


def inverse_unit(size: Scalar) -> Scalar:
    """A power of two that brings `size` to 1 to 2, exactly; 1 where it is 0 or not finite."""
    sound = (size > 0) & jnp.isfinite(size)
    exponent = jnp.clip(-jnp.floor(jnp.log2(jnp.where(sound, size, 1))), -100, 100)
    return jnp.where(sound, jnp.exp2(exponent), 1)


def relative_distance(gradient_norm: Scalar, inverse_curvature: Scalar, theta) -> Scalar:
    """`gradient_norm inverse_curvature / |theta|`; 0 where the gradient is."""
    return _relative(gradient_norm, inverse_curvature, norm(theta))


def _relative(gradient_norm: Scalar, inverse_curvature: Scalar, size: Scalar) -> Scalar:
    size = size.astype(gradient_norm.dtype)
    tiny = jnp.finfo(gradient_norm.dtype).tiny
    far = gradient_norm * inverse_curvature.astype(gradient_norm.dtype) / jnp.maximum(size, tiny)
    most = jnp.finfo(gradient_norm.dtype).max
    far = jnp.where(jnp.isinf(size) | (far > most), most, far)  # whose square is too large
    return jnp.where(gradient_norm == 0, 0, far)


def unless_endless(
    inverse_curvature: Scalar, gradient_norm: Scalar, first_norm: Scalar, theta, theta0
) -> Scalar:
    """`inverse_curvature`; without bound where theta has gone a way that no curvature explains,
    and the gradient is hardly smaller than the first one: beside such a theta any step is small.
    """
    dtype = gradient_norm.dtype
    size, moved = norm(theta).astype(dtype), norm(optax.tree.sub(theta, theta0)).astype(dtype)
    most = jnp.finfo(dtype).max
    explained = 1e3 * jnp.minimum(first_norm * inverse_curvature.astype(dtype), most / 1e3)
    far = (moved > 0.5 * size) & (moved > explained)
    return jnp.where(far & (gradient_norm > 1e-3 * first_norm), most, inverse_curvature)


def exceeds(size: Scalar, tol: float | Scalar) -> Bool[Array, ""]:
    return size > jnp.asarray(tol, size.dtype)


FAR = 0.1
"""The relative distance from which on, where it is certain, theta is no solution at all."""


class Judgement(eqx.Module):
    """Where theta stands, once the adjoint v = J^-T g is known.

    Attributes:
        distance: an estimate of the distance to the solution, relative to theta; rather too large.
        near: whether it is small enough, and rests on something.
        far: whether the solution is certainly elsewhere: `|<v, F>| / |g|` is a lower bound of the
            distance, to first order.
        change: `-<v, F>`: what the outer value would change by if theta moved to the solution, to
            first order.
    """

    distance: Scalar
    near: Bool[Array, ""]
    far: Bool[Array, ""]
    change: Scalar


@eqx.filter_jit
def judge(
    residual: PyTree[Array],
    v: PyTree[Array],
    g: PyTree[Array],
    bend: PyTree[Array] | None,
    value: Scalar | None,
    theta: PyTree[Array],
    theta0: PyTree[Array],
    inverse_curvature: Scalar | None,
    symmetric: bool,
) -> Judgement:
    """The standing of theta, where the residual F should be zero, by a few inner products.

    `bend` is the Hessian of the outer loss times v. Where the outer loss is nearly at its own
    minimum, a step of theta that is small beside theta may turn g around: the distance is that of
    g, relative to g, where this is more.
    """
    f = norm(residual)
    dtype = f.dtype
    tiny = jnp.finfo(dtype).tiny
    away = optax.tree.sub(theta, theta0)
    # Plain inner products, but for those of F, which may be very small.
    unit = divide(widen(residual), jnp.where(f > 0, f, 1))
    bends = [] if bend is None else [(bend, bend)]
    pairs = [(v, v), (g, g), (theta, theta), (away, away), (v, g), (unit, v), *bends]
    ww, hh, size, moved, overlap, along, *turn = dots(*pairs)
    w, h, size, moved = map(jnp.sqrt, (ww, hh, size, moved))
    # v = H^-1 g leans to where H is flattest: |v|^2 / <v, g> is the inverse of its curvature.
    known = (h > 0) & (w > 0)
    steep = jnp.abs(overlap) / jnp.where(known, w, 1) if symmetric else h
    inverse = jnp.where(known, w / jnp.maximum(steep, tiny), 0).astype(dtype)
    if inverse_curvature is not None:
        inverse, known = jnp.maximum(inverse, inverse_curvature.astype(dtype)), True
    distance = _relative(f, inverse, size)
    if turn:
        turn = jnp.sqrt(turn[0]) / jnp.where(w > 0, w, 1)
        turned = f * inverse * turn / jnp.where(h > 0, h, 1)
        distance = jnp.maximum(distance, jnp.where(h > 0, turned, 0).astype(dtype))
    near = (distance <= near_enough(theta)) & (known | (f == 0))
    change = -along * f
    at_least = jnp.abs(change) / jnp.where(h > 0, h, 1)
    reach = jnp.maximum(size, moved).astype(dtype)
    far = at_least > FAR * reach
    if value is not None:  # where theta stayed at 0, any step is larger than it
        far = far & ((reach > 0) | (jnp.abs(change) > FAR * jnp.abs(value.astype(dtype))))
    return Judgement(distance, near, far, change)


def amend(result: Result, judged: Judgement, final: Bool[Array, ""] | bool) -> Result:
    """The solver's own word, mended by what is known now; a `final` one is not taken back."""
    mended = (result == Result.not_judged) | ((result == Result.not_stationary) & ~final)
    result = Result.where(judged.near & mended, Result.successful, result)
    vague = (result == Result.successful) & ~judged.near
    result = Result.where(vague, Result.not_judged, result)
    far = judged.far & ((result == Result.successful) | (result == Result.not_judged))
    return Result.where(far, Result.not_stationary, result)
