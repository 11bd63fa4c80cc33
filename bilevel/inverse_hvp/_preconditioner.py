"""How a preconditioner is handed to a method."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from .._tree import check_form
from .._types import PyTree


class AbstractPreconditioner(eqx.Module):
    """Something that makes a preconditioner once the Hessian is known."""

    @abc.abstractmethod
    def prepare(
        self, hvp: Callable[..., PyTree[Array]], g: PyTree[Array], key: PRNGKeyArray | None
    ) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """`v -> M^-1 v` for a positive definite M near the operator `hvp`; `g` gives the form."""


def make_preconditioner(
    preconditioner: Callable[..., Any] | AbstractPreconditioner | None,
    hvp: Callable[..., Any],
    g: PyTree[Array],
    key: PRNGKeyArray | None,
) -> Callable[..., Any] | None:
    if isinstance(preconditioner, AbstractPreconditioner):
        return preconditioner.prepare(hvp, g, key)
    return None if preconditioner is None else _Checked(preconditioner)


class _Checked(eqx.Module):
    """A user's function."""

    function: Callable[..., Any]

    def __call__(self, v: PyTree[Array]) -> PyTree[Array]:
        found = self.function(v)
        check_form(found, v, "preconditioner(v) is", "product", "v")
        return jax.tree.map(lambda at, like: jnp.asarray(at, like.dtype), found, v)
