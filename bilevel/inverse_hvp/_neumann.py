from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._loops import Loop, check_loop, iterate, never
from .._mistakes import check_steps
from .._operator import AbstractOperator
from .._result import Result, worst
from .._tree import divide, norm, split_key, vdot
from .._types import PyTree
from .._varying import vary, varying
from ._base import AbstractInverseHVP, Iterate
from ._sgd import SGD


class Neumann(AbstractInverseHVP):
    """The Neumann series `v = a sum_k (I - a H)^k g`, cut off (Lorraine et al., 2020).

    One Hessian-vector product a term. It converges where every eigenvalue of H is between 0 and
    2 / a, also for an operator that is not symmetric. The partial sum with the smallest residual
    is kept.

    Attributes:
        steps: how many terms, at most so many where `rtol` is given.
        step_size: a; None: 1 over the largest eigenvalue, found by power iteration.
        rtol: the relative residual to stop at; a solve that ends above it is a failure. None: take
            all steps, and what is short of the solution is `Result.approximate`.
        power_steps: steps of the power iteration, one Hessian-vector product each.
        loop: how the steps run, see `CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.inverse_hvp import Neumann
        >>> hessian = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
        >>> Neumann(steps=60)(lambda v: hessian @ v, jnp.ones(3)).v
        Array([1.00, 0.50, 0.25], dtype=float32)
    """

    steps: int = eqx.field(static=True)
    step_size: float | Scalar | None = None
    rtol: float | None = None
    power_steps: int = eqx.field(default=20, static=True)
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_steps(self.steps)
        if isinstance(self.step_size, float | int) and not self.step_size > 0:
            raise ValueError(f"step_size={self.step_size} is not positive: give e.g. 0.1, or None.")

    @property
    def traceable(self) -> bool:
        return self.loop != "dispatch"

    def tolerance(self, g: PyTree[Array]) -> float | Scalar | None:
        return self.rtol

    def solve(
        self,
        hvp: Callable[..., PyTree[Array]],
        g: PyTree[Array],
        v0: PyTree[Array] | None,
        key: PRNGKeyArray | None,
    ) -> Iterate:
        power_key, key = split_key(key, 2)
        a, result = self.step_size, Result.successful
        if a is None:
            state = _start(g, power_key)
            state = iterate(self.power_step, never, hvp, state, self.power_steps, self.loop)
            largest = state.eigenvalue
            # The iteration comes from below, and beyond 2 / largest the series diverges.
            a = 1 / (1.05 * jnp.where(largest > 0, largest, 1)).astype(largest.dtype)
            result = Result.where(largest <= 0, Result.indefinite, Result.successful)
        descent = SGD(optax.sgd(1.0), self.steps, jnp.asarray(a), self.rtol, self.loop)
        found = descent.solve(hvp, g, v0, key)
        return Iterate(found.v, found.steps, worst(result, found.result), found.losses, found.rest)

    def power_step(self, hvp: AbstractOperator, state: "_Power") -> "_Power":
        key, now = split_key(state.key, 2)
        image = hvp(state.direction, now)
        size = norm(image)
        sign = jnp.where(vdot(state.direction, image) < 0, -1, 1).astype(size.dtype)
        return _Power(
            divide(image, jnp.where(size > 0, size, 1).astype(size.dtype)),
            (sign * size).astype(state.eigenvalue.dtype),
            key,
        )


class _Power(eqx.Module):
    direction: PyTree[Array]
    eigenvalue: Scalar
    key: PRNGKeyArray | None


@eqx.filter_jit
def _start(g, key) -> _Power:
    leaves, structure = jax.tree.flatten(g)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    noise = [
        jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
    ]
    direction = vary(jax.tree.unflatten(structure, noise), varying(g))
    size = norm(direction)
    return _Power(divide(direction, size), jnp.ones_like(size), key)
