"""How a preconditioner is handed to a method."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray

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
    return preconditioner
