from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from .._descent import check_optimiser, descend
from .._inner import evaluate, value_and_grad
from .._loops import Loop, check_loop, iterate
from .._mistakes import check_steps
from .._result import Result
from .._tree import norm, wide_dtype
from .._types import PyTree
from ._base import AbstractMinimiser, Steps, check_tol


class GradientDescent(AbstractMinimiser):
    """Steps of any optax optimiser: a fixed number of them, or until a tolerance.

    Attributes:
        transformation: an `optax.GradientTransformation`, e.g. `optax.adam(1e-3)`.
        steps: how many steps, at most so many where `tol` is given.
        tol: stop where the norm of the gradient is at most this; a solve that ends above it is
            reported. None: take all steps.
        scale: multiplies every update; a learning rate that can change without compiling anew.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel.solvers import GradientDescent
        >>> solver = GradientDescent(optax.sgd(0.5), steps=20)
        >>> theta, record = solver(lambda theta: jnp.sum((theta - 1) ** 2) / 2, jnp.zeros(2))
        >>> bool(record.gradient_norm < 1e-5)
        True
    """

    transformation: optax.GradientTransformation
    steps: int = eqx.field(static=True)
    tol: float | None = None
    scale: float | Scalar = 1.0
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self) -> None:
        check_loop(self.loop)
        check_steps(self.steps, least=0)
        check_optimiser(self.transformation)
        check_tol(self.tol)

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        state = self.start(theta0, key)
        state = iterate(self.step, self.done, loss, state, self.steps, self.loop)
        return Steps(state.at.theta, state.at.count, state.losses, Result.not_judged, self.tol)

    def step(self, loss: Callable[..., Scalar], state: "_State") -> "_State":
        after, value, gradient = self.descend(loss, state.at)
        losses = state.losses.at[state.at.count].set(value.astype(state.losses.dtype))
        size = state.gradient_norm
        if self.tol is not None:
            size = norm(gradient).astype(size.dtype)
            stay = size <= jnp.asarray(self.tol, size.dtype)
            theta = optax.tree.where(stay, state.at.theta, after.theta)
            after = Descent(theta, after.optimiser, after.count, after.key)
        return _State(after, losses, size)

    def done(self, loss: Callable[..., Scalar], state: "_State") -> Bool[Array, ""] | bool:
        if self.tol is None:
            return False
        return state.gradient_norm <= jnp.asarray(self.tol, state.losses.dtype)

    def descend(
        self, loss: Callable[..., Scalar], at: "Descent"
    ) -> tuple["Descent", Scalar, PyTree[Array]]:
        """The state after a step, the loss and its gradient before it.

        A step has the same key whether it is taken or differentiated.
        """
        now = None if at.key is None else jax.random.fold_in(at.key, at.count)
        value, gradient = value_and_grad(loss, at.theta, now)
        theta, optimiser = descend(
            self.transformation, gradient, at.optimiser, at.theta, self.scale, value,
            lambda theta: evaluate(loss, theta, now),
        )  # fmt: skip
        return Descent(theta, optimiser, at.count + 1, at.key), value, gradient

    def begin(self, theta0: PyTree[Array], key: PRNGKeyArray | None) -> "Descent":
        return _begin(self.transformation, theta0, key)

    def start(self, theta0: PyTree[Array], key: PRNGKeyArray | None) -> "_State":
        dtype = wide_dtype(theta0)
        most = jnp.asarray(jnp.finfo(dtype).max)
        return _State(self.begin(theta0, key), jnp.zeros((self.steps,), dtype), most)


class Descent(eqx.Module):
    """Where the descent is: what one step changes."""

    theta: PyTree[Array]
    optimiser: PyTree
    count: Int[Array, ""]
    key: PRNGKeyArray | None


class _State(eqx.Module):
    at: Descent
    losses: Float[Array, " steps"]
    gradient_norm: Scalar


@eqx.filter_jit
def _begin(transformation, theta0, key) -> Descent:
    return Descent(theta0, transformation.init(theta0), jnp.asarray(0), key)
