from typing import Any

import equinox as eqx
import jax
import optax
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from .._mistakes import check_steps
from .._types import PyTree
from ._base import AbstractSingleLoop, State, closed, moved, opened


class AmIGO(AbstractSingleLoop):
    """Some steps of theta, some of v, then one of psi, all warm-started (Arbel and Mairal,
    "Amortized implicit differentiation for stochastic bilevel optimization", ICLR 2022).

    Attributes:
        outer: `outer(theta, psi, *outer_args)`, a scalar; called with `key=` where `step` is given
            a key, so that it can draw a mini-batch.
        inner: `inner(theta, psi, *inner_args)`, likewise, each time with a key of its own.
        theta: the optimiser of theta, of optax, e.g. `optax.sgd(0.1)`.
        psi: that of psi.
        v: that of the adjoint v; that of theta if None.
        steps: exactly so many steps of theta, and of v, to one of psi.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.single_loop import AmIGO
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum((theta - 1) ** 2)
        >>> method = AmIGO(outer, inner, theta=optax.sgd(0.2), psi=optax.sgd(0.3))
        >>> state = method.init(jnp.zeros(2), jnp.zeros(2))
        >>> for _ in range(30):
        ...     state = method.step(state)
        >>> state.psi
        Array([1.00, 1.00], dtype=float32)
    """

    steps: int = eqx.field(default=10, kw_only=True, static=True)

    def __check_init__(self) -> None:
        check_steps(self.steps)

    def begin(self, psi: PyTree[Array], theta: PyTree[Array]) -> Any:
        return optax.tree.zeros_like(theta)

    def step(
        self,
        state: State,
        key: PRNGKeyArray | None = None,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
    ) -> State:
        batch, psi, theta, keys = opened(self, state, key, 4, outer_args, inner_args)
        by_theta, by_psi, by_v = state.optimisers
        theta, by_theta = descend(batch, psi, theta, by_theta, keys[0], self.steps)
        value, outer_theta, outer_psi = batch.outer_gradients(theta, psi, keys[1])

        def solve(carry, key):
            v, by_v = carry
            hvp = batch.products(theta, psi, v, key)[1]
            direction = optax.tree.sub(hvp, outer_theta)
            return moved(self.adjoint_optimiser, direction, by_v, v), None

        (v, by_v), _ = lax.scan(solve, (state.extra, by_v), fresh(keys[2], self.steps), self.steps)
        mixed = batch.products(theta, psi, v, keys[3])[2]
        psi, by_psi = moved(self.psi, optax.tree.sub(outer_psi, mixed), by_psi, psi)
        return closed(state, psi, theta, value, v, (by_theta, by_psi, by_v))


class StocBiO(AbstractSingleLoop):
    """Some steps of theta, then a truncated Neumann series for v (Ji, Yang and Liang, "Bilevel
    optimization: convergence analysis and enhanced design", ICML 2021).

    Attributes:
        outer: `outer(theta, psi, *outer_args)`, a scalar; called with `key=` where `step` is given
            a key, so that it can draw a mini-batch.
        inner: `inner(theta, psi, *inner_args)`, likewise, each time with a key of its own.
        theta: the optimiser of theta, of optax, e.g. `optax.sgd(0.1)`.
        psi: that of psi.
        v: has no part in it: the series has no optimiser.
        step_size: that of the Neumann series, below 2 over the largest eigenvalue of the Hessian.
        steps: exactly so many steps of theta, and Hessian-vector products of the series, which
            has a term more (the paper's D and Q, which are one number here), to one of psi.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.single_loop import StocBiO
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum((theta - 1) ** 2)
        >>> method = StocBiO(outer, inner, theta=optax.sgd(0.2), psi=optax.sgd(0.3), step_size=0.2)
        >>> state = method.init(jnp.zeros(2), jnp.zeros(2))
        >>> for _ in range(30):
        ...     state = method.step(state)
        >>> state.psi
        Array([1.00, 1.00], dtype=float32)
    """

    step_size: float = eqx.field(kw_only=True)
    steps: int = eqx.field(default=10, kw_only=True, static=True)

    def __check_init__(self) -> None:
        check_steps(self.steps)
        if not self.step_size > 0:
            raise ValueError(
                f"step_size={self.step_size} leads nowhere: give a positive number, e.g. 0.1."
            )

    def begin(self, psi: PyTree[Array], theta: PyTree[Array]) -> Any:
        return ()

    def step(
        self,
        state: State,
        key: PRNGKeyArray | None = None,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
    ) -> State:
        batch, psi, theta, keys = opened(self, state, key, 4, outer_args, inner_args)
        by_theta, by_psi, by_v = state.optimisers
        theta, by_theta = descend(batch, psi, theta, by_theta, keys[0], self.steps)
        value, outer_theta, outer_psi = batch.outer_gradients(theta, psi, keys[1])

        def term(carry, key):
            power, total = carry
            hvp = batch.products(theta, psi, power, key)[1]
            power = optax.tree.add_scale(power, -self.step_size, hvp)
            return (power, optax.tree.add(total, power)), None

        start = (outer_theta, outer_theta)
        (_, total), _ = lax.scan(term, start, fresh(keys[2], self.steps), self.steps)
        v = optax.tree.scale(self.step_size, total)
        mixed = batch.products(theta, psi, v, keys[3])[2]
        psi, by_psi = moved(self.psi, optax.tree.sub(outer_psi, mixed), by_psi, psi)
        return closed(state, psi, theta, value, (), (by_theta, by_psi, by_v))


def descend(batch, psi, theta, optimiser_state, key, steps):
    """Steps of theta on the inner loss, each on a mini-batch of its own."""

    def step(carry, key):
        theta, state = carry
        gradient = batch.inner_gradient(theta, psi, key)
        return moved(batch.method.theta, gradient, state, theta), None

    return lax.scan(step, (theta, optimiser_state), fresh(key, steps), steps)[0]


def fresh(key, count):
    return None if key is None else jax.random.split(key, count)
