"""Linear operators on pytrees: what inverse Hessians are given, whatever it is made of."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, Scalar

from ._loops import holds
from ._tree import cast, check_form, dtypes_of, widen
from ._types import PyTree


class AbstractOperator(eqx.Module):
    """v -> A v, with a key where the product is stochastic."""

    @property
    @abc.abstractmethod
    def symmetric(self) -> bool:
        """Whether A is its own transpose, as Hessians are."""

    @abc.abstractmethod
    def __call__(self, v: PyTree[Array], key: PRNGKeyArray | None = None) -> PyTree[Array]:
        """A v, shaped like v."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractOperator":
        """The transpose of A."""

    def dtypes(self, v: PyTree[Array]) -> tuple[np.dtype, ...]:
        """The types in which the product with v is computed."""
        return dtypes_of(v)


class Function(AbstractOperator):
    """A user's function of v, or of `(v, key)` where there is one.

    It is taken to be symmetric, unless it says otherwise by `symmetric`, and then has a `T`.
    """

    function: Any

    @property
    def symmetric(self):
        return bool(getattr(self.function, "symmetric", True))

    def __call__(self, v, key=None):
        found = self.function(v) if key is None else self.function(v, key)
        check_form(found, v, "hvp(v) is", "product", "v")
        return jax.tree.map(jnp.asarray, found)

    @property
    def T(self):
        return self if self.symmetric else Function(self.function.T)


class _Derivative(AbstractOperator):
    """That of a function, whose transpose is reverse mode in the place of forward mode."""

    self_adjoint: bool = eqx.field(static=True, kw_only=True)
    transposed: bool = eqx.field(default=False, static=True, kw_only=True)

    @property
    def symmetric(self):
        return self.self_adjoint

    @property
    def T(self):
        return self if self.symmetric else dataclasses.replace(self, transposed=not self.transposed)


class Linear(_Derivative):
    """A linear function of v: `jax.linearize` of F, made once and applied many times."""

    linear: Callable[[PyTree[Array]], PyTree[Array]]

    def __call__(self, v, key=None):
        return jax.linear_transpose(self.linear, v)(v)[0] if self.transposed else self.linear(v)


class Rederived(_Derivative):
    """The derivative of `function(theta, key)` at theta, derived anew at each product."""

    function: Callable[[PyTree[Array], Any], PyTree[Array]]
    theta: PyTree[Array]

    def __call__(self, v, key=None):
        def at(theta):
            return self.function(theta, key)

        if self.transposed or (self.symmetric and holds("custom_vjp_call", at, self.theta)):
            return jax.vjp(at, self.theta)[1](v)[0]  # a custom_vjp has no forward mode
        return jax.jvp(at, (self.theta,), (v,))[1]


class Damped(AbstractOperator):
    """v -> (A + damping I) v."""

    operator: AbstractOperator
    damping: Scalar

    @property
    def symmetric(self):
        return self.operator.symmetric

    def __call__(self, v, key=None):
        image = self.operator(v, key)
        return jax.tree.map(lambda at, vi: at + self.damping.astype(vi.dtype) * vi, image, v)

    @property
    def T(self):
        return Damped(self.operator.T, self.damping)

    def dtypes(self, v):
        return self.operator.dtypes(v)


class Wide(AbstractOperator):
    """v -> A v for a v whose leaves are of one wide type, where those of theta are not."""

    operator: AbstractOperator
    narrow: tuple[np.dtype, ...] = eqx.field(static=True)

    @property
    def symmetric(self):
        return self.operator.symmetric

    def __call__(self, v, key=None):
        return widen(self.operator(cast(v, self.narrow), key))

    @property
    def T(self):
        return Wide(self.operator.T, self.narrow)

    def dtypes(self, v):
        return self.narrow


class Gram(AbstractOperator):
    """v -> A A^T v."""

    operator: AbstractOperator

    @property
    def symmetric(self):
        return True

    def __call__(self, v, key=None):
        return self.operator(self.operator.T(v, key), key)

    @property
    def T(self):
        return self

    def dtypes(self, v):
        return self.operator.dtypes(v)


def as_operator(hvp: Callable[..., PyTree[Array]]) -> AbstractOperator:
    return hvp if isinstance(hvp, AbstractOperator) else Function(hvp)
