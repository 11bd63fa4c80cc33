"""What single loops share: the state, the gradients on a mini-batch, the steps of optax."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, Scalar

from .._descent import check_optimiser
from .._inner import as_arrays, check_args, check_callable, check_scalar
from .._mistakes import call
from .._tree import split_key
from .._types import PyTree


class State(eqx.Module):
    """Where a single loop is; a pytree of arrays, so that `jax.lax.scan` can carry it.

    Attributes:
        psi, theta: the outer and the inner variables, as they were given to `init`.
        value: the outer loss on the last mini-batch, before the last step; NaN before the first.
        count: how many steps were taken.
        extra: what the method keeps beside: v, a moving average, a second theta.
    """

    variables: tuple[PyTree[Array], PyTree[Array]]
    value: Scalar
    count: Int[Array, ""]
    extra: Any
    optimisers: tuple[PyTree, PyTree, PyTree]
    rest: tuple[Any, ...] = eqx.field(static=True)

    @property
    def psi(self) -> PyTree:
        return _whole(self.variables[0], self.rest[0])

    @property
    def theta(self) -> PyTree:
        return _whole(self.variables[1], self.rest[1])


class AbstractSingleLoop(eqx.Module):
    """A method as two functions: `init(psi, theta)` and `step(state, key)`.

    Attributes:
        outer: `outer(theta, psi, *outer_args)`, a scalar; called with `key=` where `step` is given
            a key, so that it can draw a mini-batch.
        inner: `inner(theta, psi, *inner_args)`, likewise, each time with a key of its own.
        theta: the optax optimiser of theta.
        psi: that of psi.
        v: that of the adjoint; that of theta if None.
    """

    outer: Any
    inner: Any
    theta: Any = eqx.field(static=True)
    psi: Any = eqx.field(static=True)
    v: Any = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        check_callable(self.outer, "outer")
        check_callable(self.inner, "inner")
        for name in ("theta", "psi", "v"):
            if name != "v" or self.v is not None:
                check_optimiser(getattr(self, name), name)

    @property
    def adjoint_optimiser(self) -> optax.GradientTransformation:
        return self.theta if self.v is None else self.v

    @abc.abstractmethod
    def begin(self, psi: PyTree[Array], theta: PyTree[Array]) -> Any:
        """`extra` of the first state."""

    @abc.abstractmethod
    def step(
        self,
        state: State,
        key: PRNGKeyArray | None = None,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
    ) -> State:
        """The state after one step of all variables."""

    def init(self, psi: PyTree, theta: PyTree) -> State:
        """The first state.

        Args:
            psi: the outer variables, any pytree.
            theta: the inner variables, likewise.
        """
        psi, theta = as_arrays(psi, "psi"), as_arrays(theta, "theta")
        moving_psi, moving_theta = (eqx.filter(tree, eqx.is_inexact_array) for tree in (psi, theta))
        optimisers = (
            self.theta.init(moving_theta),
            self.psi.init(moving_psi),
            self.adjoint_optimiser.init(moving_theta),
        )
        extra = self.begin(moving_psi, moving_theta)
        value = jnp.full((), jnp.nan, jnp.result_type(*jax.tree.leaves(moving_theta)))
        (in_psi, rest_psi), (in_theta, rest_theta) = _split(psi), _split(theta)
        rest = (rest_psi, rest_theta)
        return State((in_psi, in_theta), value, jnp.asarray(0), extra, optimisers, rest)


class Batch(eqx.Module):
    """Both losses as functions of the moving leaves, on mini-batches drawn by key."""

    method: AbstractSingleLoop
    rest: tuple[PyTree, PyTree]
    outer_args: tuple[Any, ...]
    inner_args: tuple[Any, ...]

    def outer(self, theta, psi, key) -> Scalar:
        return self._loss(self.method.outer, "outer", theta, psi, self.outer_args, key)

    def inner(self, theta, psi, key) -> Scalar:
        return self._loss(self.method.inner, "inner", theta, psi, self.inner_args, key)

    def _loss(self, function, name, theta, psi, args, key) -> Scalar:
        whole = eqx.combine(theta, self.rest[1]), eqx.combine(psi, self.rest[0])
        kwargs = {} if key is None else {"key": key}
        value = call(function, f"{name}(theta, psi, *{name}_args)", *whole, *args, **kwargs)
        check_scalar(value, name)
        return value

    def outer_gradients(self, theta, psi, key):
        """The outer loss, its gradient in theta, and that in psi."""
        value, (in_theta, in_psi) = jax.value_and_grad(self.outer, argnums=(0, 1))(theta, psi, key)
        return value, in_theta, in_psi

    def inner_gradient(self, theta, psi, key):
        return jax.grad(self.inner)(theta, psi, key)

    def products(self, theta, psi, v, key):
        """The inner gradient, the Hessian times v, and the mixed derivative times v, at once."""

        def gradients(theta):
            return jax.grad(self.inner, argnums=(0, 1))(theta, psi, key)

        (gradient, _), (hvp, mixed) = jax.jvp(gradients, (theta,), (v,))
        return gradient, hvp, mixed


def opened(method: AbstractSingleLoop, state: State, key, count: int, outer_args, inner_args):
    """The mini-batches, the moving leaves of psi and theta, and `count` fresh keys."""
    if not isinstance(state, State):
        raise ValueError(
            f"state is of type {type(state).__name__}: begin with `init(psi, theta)`, and pass on "
            "what `step` returns."
        )
    check_args(outer_args, "outer_args")
    check_args(inner_args, "inner_args")
    (psi, rest_psi), (theta, rest_theta) = _parts(state.psi), _parts(state.theta)
    batch = Batch(method, (rest_psi, rest_theta), tuple(outer_args), tuple(inner_args))
    return batch, psi, theta, split_key(key, count)


def closed(state: State, psi, theta, value, extra, optimisers) -> State:
    """The state with new moving leaves."""
    whole = (
        eqx.combine(psi, _parts(state.psi)[1]),
        eqx.combine(theta, _parts(state.theta)[1]),
    )
    variables = (_split(whole[0])[0], _split(whole[1])[0])
    value = value.astype(state.value.dtype)
    return State(variables, value, state.count + 1, extra, optimisers, state.rest)


def moved(optimiser: optax.GradientTransformation, direction, state, variables):
    """The variables after a step of the optimiser, and its state."""
    updates, state = optimiser.update(direction, state, variables)
    return optax.apply_updates(variables, updates), state


def _parts(tree):
    return eqx.partition(tree, eqx.is_inexact_array)


def _split(tree):
    """The arrays of a tree, and all else of it in a form that can be static."""
    arrays, other = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree.flatten(other)
    return arrays, (structure, tuple(leaves))


def _whole(arrays, static):
    structure, leaves = static
    return eqx.combine(arrays, jax.tree.unflatten(structure, leaves))
