"""How a preconditioner is handed to a method."""

import abc
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray, PyTree


class AbstractPreconditioner(eqx.Module):
    """Something that makes a preconditioner once the Hessian is known."""

    @abc.abstractmethod
    def prepare(
        self, hvp: Callable[..., PyTree[Array]], g: PyTree[Array], key: PRNGKeyArray | None
    ) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """`v -> M^-1 v` for a positive definite M near the operator `hvp`; `g` gives the form."""


def make_preconditioner(
    preconditioner: Callable | AbstractPreconditioner | None,
    hvp: Callable,
    g: PyTree[Array],
    key: PRNGKeyArray | None,
) -> Callable | None:
    if isinstance(preconditioner, AbstractPreconditioner):
        return preconditioner.prepare(hvp, g, key)
    return preconditioner
