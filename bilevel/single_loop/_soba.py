from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import Array, PRNGKeyArray

from .._types import PyTree
from ._base import AbstractSingleLoop, State, closed, moved, opened


class SOBA(AbstractSingleLoop):
    """Stochastic bilevel algorithm (Dagréou, Ablin, Vaiter and Moreau, NeurIPS 2022, algorithm 1).

    Theta, v and psi move at once, each along a direction on fresh mini-batches:

        theta  along  d inner / d theta
        v      along  H v - d outer / d theta
        psi    along  d outer / d psi - (d^2 inner / d psi d theta) v

    Attributes:
        outer: `outer(theta, psi, *outer_args)`, a scalar; called with `key=` where `step` is given
            a key, so that it can draw a mini-batch.
        inner: `inner(theta, psi, *inner_args)`, likewise, each time with a key of its own.
        theta: the optimiser of theta, of optax, e.g. `optax.sgd(0.1)`.
        psi: that of psi.
        v: that of the adjoint v; that of theta if None.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from bilevel.single_loop import SOBA
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum((theta - 1) ** 2)
        >>> method = SOBA(outer, inner, theta=optax.sgd(0.2), psi=optax.sgd(0.1))
        >>> state = method.init(jnp.zeros(2), jnp.zeros(2))
        >>> state, values = jax.lax.scan(
        ...     lambda s, _: (method.step(s), s.value), state, length=200
        ... )
        >>> state.psi
        Array([1.00, 1.00], dtype=float32)
    """

    def begin(self, psi: PyTree[Array], theta: PyTree[Array]) -> Any:
        return optax.tree.zeros_like(theta)

    def step(
        self,
        state: State,
        key: PRNGKeyArray | None = None,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
    ) -> State:
        batch, psi, theta, keys = opened(self, state, key, 2, outer_args, inner_args)
        in_theta, in_psi, in_v, value = directions(batch, psi, theta, state.extra, keys)
        by_theta, by_psi, by_v = state.optimisers
        theta, by_theta = moved(self.theta, in_theta, by_theta, theta)
        v, by_v = moved(self.adjoint_optimiser, in_v, by_v, state.extra)
        psi, by_psi = moved(self.psi, in_psi, by_psi, psi)
        return closed(state, psi, theta, value, v, (by_theta, by_psi, by_v))


class MASOBA(AbstractSingleLoop):
    """SOBA with a moving average of psi's direction (Chen, Xiao and Balasubramanian, "Optimal
    algorithms for stochastic bilevel optimization under relaxed smoothness conditions", JMLR 2024).

    Attributes:
        outer: `outer(theta, psi, *outer_args)`, a scalar; called with `key=` where `step` is given
            a key, so that it can draw a mini-batch.
        inner: `inner(theta, psi, *inner_args)`, likewise, each time with a key of its own.
        theta: the optimiser of theta, of optax, e.g. `optax.sgd(0.1)`.
        psi: that of psi.
        v: that of the adjoint v; that of theta if None.
        weight: that of the newest direction in the average.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.single_loop import MASOBA
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum((theta - 1) ** 2)
        >>> method = MASOBA(outer, inner, theta=optax.sgd(0.2), psi=optax.sgd(0.1))
        >>> int(method.step(method.init(jnp.zeros(2), jnp.zeros(2))).count)
        1
    """

    weight: float = eqx.field(default=0.1, kw_only=True)

    def __check_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight={self.weight} is no part of an average: give e.g. 0.1.")

    def begin(self, psi: PyTree[Array], theta: PyTree[Array]) -> Any:
        return optax.tree.zeros_like(theta), optax.tree.zeros_like(psi)

    def step(
        self,
        state: State,
        key: PRNGKeyArray | None = None,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
    ) -> State:
        batch, psi, theta, keys = opened(self, state, key, 2, outer_args, inner_args)
        v, average = state.extra
        in_theta, in_psi, in_v, value = directions(batch, psi, theta, v, keys)
        by_theta, by_psi, by_v = state.optimisers
        psi, by_psi = moved(self.psi, average, by_psi, psi)
        average = jax.tree.map(lambda a, new: a + self.weight * (new - a), average, in_psi)
        theta, by_theta = moved(self.theta, in_theta, by_theta, theta)
        v, by_v = moved(self.adjoint_optimiser, in_v, by_v, v)
        return closed(state, psi, theta, value, (v, average), (by_theta, by_psi, by_v))


def directions(batch, psi, theta, v, keys):
    """Those of theta, psi and v, and the outer loss."""
    inner_key, outer_key = keys
    gradient, hvp, mixed = batch.products(theta, psi, v, inner_key)
    value, outer_theta, outer_psi = batch.outer_gradients(theta, psi, outer_key)
    return gradient, optax.tree.sub(outer_psi, mixed), optax.tree.sub(hvp, outer_theta), value
