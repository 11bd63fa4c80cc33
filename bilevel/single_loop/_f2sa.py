from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from .._types import PyTree
from ._base import AbstractSingleLoop, State, closed, moved, opened


class F2SA(AbstractSingleLoop):
    """Fully first-order stochastic approximation (Kwon, Kwon, Wright and Nowak, ICML 2023): no
    Hessian, but a penalty.

    One theta descends on `outer + penalty inner`, another on `inner` alone, and psi follows

        d outer / d psi + penalty (d inner / d psi |theta - d inner / d psi |alone)

    whose distance to the hypergradient falls as one over the penalty, which grows from step to
    step. Both thetas see the same mini-batches, so that the penalty does not multiply their noise.

    Attributes:
        outer: `outer(theta, psi, *outer_args)`, a scalar; called with `key=` where `step` is given
            a key, so that it can draw a mini-batch.
        inner: `inner(theta, psi, *inner_args)`, likewise, each time with a key of its own.
        theta: the optimiser of theta, of optax, e.g. `optax.sgd(0.1)`.
        psi: that of psi.
        v: has no part in it.
        penalty: the first one.
        growth: how much it grows a step.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.single_loop import F2SA
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum((theta - 1) ** 2)
        >>> method = F2SA(outer, inner, theta=optax.sgd(0.2), psi=optax.sgd(0.1))
        >>> int(method.step(method.init(jnp.zeros(2), jnp.zeros(2))).count)
        1
    """

    penalty: float = eqx.field(default=1.0, kw_only=True)
    growth: float = eqx.field(default=0.01, kw_only=True)

    def __check_init__(self) -> None:
        if not self.penalty > 0 or self.growth < 0:
            raise ValueError(
                f"penalty={self.penalty} and growth={self.growth} lead away from the inner "
                "problem: give a positive penalty, and a growth of 0 or more."
            )

    def begin(self, psi: PyTree[Array], theta: PyTree[Array]) -> Any:
        return theta, self.theta.init(theta)

    def step(
        self,
        state: State,
        key: PRNGKeyArray | None = None,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
    ) -> State:
        batch, psi, theta, keys = opened(self, state, key, 3, outer_args, inner_args)
        alone, by_alone = state.extra
        by_theta, by_psi, by_v = state.optimisers
        penalty = self.penalty + self.growth * state.count.astype(jnp.result_type(state.value))
        alone, by_alone = moved(
            self.theta, batch.inner_gradient(alone, psi, keys[0]), by_alone, alone
        )
        value, outer_theta, outer_psi = batch.outer_gradients(theta, psi, keys[1])
        in_theta = batch.inner_gradient(theta, psi, keys[0])
        # Over the penalty, so that one rate serves all penalties.
        direction = optax.tree.add_scale(in_theta, 1 / penalty, outer_theta)
        theta, by_theta = moved(self.theta, direction, by_theta, theta)
        apart = optax.tree.sub(
            _in_psi(batch, theta, psi, keys[2]), _in_psi(batch, alone, psi, keys[2])
        )
        psi, by_psi = moved(self.psi, optax.tree.add_scale(outer_psi, penalty, apart), by_psi, psi)
        extra = (alone, by_alone)
        return closed(state, psi, theta, value, extra, (by_theta, by_psi, by_v))


def _in_psi(batch, theta, psi, key):
    return jax.grad(lambda psi: batch.inner(theta, psi, key))(psi)
