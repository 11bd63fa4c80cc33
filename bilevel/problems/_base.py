"""What an inner problem is, where it is not a loss to minimise."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._inner import InnerLoss, InWideType, Params
from .._point import Multipliers
from .._traced_loss import TracedLoss
from .._tree import check_form
from .._types import PyTree
from ..inverse_hvp import AbstractInverseHVP
from ..inverse_hvp._suited import Suited
from ._condition import AbstractCondition
from ._stationary import Stationary


class AbstractProblem(eqx.Module):
    """An inner problem that is made of one or more functions of `(theta, psi, *inner_args)`.

    Stands in the place of an inner loss, in `argmin`, `hypergradient` and `check_hypergradient`.
    """

    remedy: ClassVar[str]
    """Solvers that suit it, for those who pass another."""

    @abc.abstractmethod
    def __call__(self, theta: PyTree, psi: PyTree, *args: Any, **kwargs: Any) -> Any:
        """What its functions return."""

    @abc.abstractmethod
    def over(self, change: Callable[[Callable], Callable[..., Any]]) -> "AbstractProblem":
        """The same problem with each of its functions changed."""

    @abc.abstractmethod
    def condition(self, loss: Any) -> AbstractCondition:
        """What holds at its solution; `loss` is this problem as a function of theta."""

    def begin(self, loss: InnerLoss, theta0: Params) -> tuple[InnerLoss, Params]:
        """The problem with what it needs to know of its start, and what it is solved for."""
        return loss, theta0

    @abc.abstractmethod
    def given(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The function that a plain callable is to solve."""

    def inverse_hvp(self) -> AbstractInverseHVP:
        """Where the caller names none."""
        return Suited()

    def multipliers(self, loss: InnerLoss, at: Params) -> Multipliers | None:
        return None

    def rejoin(self, loss: Any, theta: Params, multipliers: Any) -> Params:
        """What it is solved for, from the theta and the multipliers of a record."""
        return theta

    def functions(self) -> list[Callable[..., Any]]:
        found: list[Callable[..., Any]] = []
        self.over(lambda function: (found.append(function), function)[1])
        return found

    def uses_psi(self, loss: InnerLoss) -> bool:
        traced = [function for function in self.functions() if isinstance(function, TracedLoss)]
        return not traced or any(function.uses(1, loss.has_aux) for function in traced)


def problem_of(loss: Any) -> AbstractProblem | None:
    """The problem that `loss` evaluates; None for a loss to minimise."""
    loss = loss.loss if isinstance(loss, InWideType) else loss
    inner = loss.inner if isinstance(loss, InnerLoss) else None
    return inner if isinstance(inner, AbstractProblem) else None


def condition_of(loss: Any) -> AbstractCondition:
    problem = problem_of(loss)
    return Stationary(loss) if problem is None else problem.condition(loss)


def begin(loss: InnerLoss, theta0: Params) -> tuple[InnerLoss, Params]:
    problem = problem_of(loss)
    return (loss, theta0) if problem is None else problem.begin(loss, theta0)


def no_adjoint(loss: InnerLoss, theta0: Params) -> Params:
    """0 in the place of an adjoint, which has parts for multipliers where there are any."""
    form = eqx.filter_eval_shape(lambda: begin(loss, theta0)[1])
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)


def rejoin(loss: InnerLoss, theta: Params, multipliers: Multipliers | None) -> Params:
    """What was solved for, from the theta and the multipliers of a record."""
    problem = problem_of(loss)
    return theta if problem is None else problem.rejoin(loss, theta, multipliers)


def inverse_for(inner: Callable[..., Any], inverse_hvp: Any) -> Any:
    """`inverse_hvp`, or what the problem takes where that is None."""
    if inverse_hvp is None and isinstance(inner, AbstractProblem):
        return inner.inverse_hvp()
    return inverse_hvp


def over_functions(
    inner: Callable[..., Any], change: Callable[[Callable], Callable[..., Any]]
) -> Callable[..., Any]:
    """`inner`, or each function of the problem that it is, changed."""
    return inner.over(change) if isinstance(inner, AbstractProblem) else change(inner)


def traced_functions(inner: Callable[..., Any]) -> list:
    return inner.functions() if isinstance(inner, AbstractProblem) else [inner]


class Shaped(eqx.Module):
    """A function of theta whose value has to have the form of theta, in its types."""

    loss: Callable[..., Any]
    who: str = eqx.field(static=True)
    what: str = eqx.field(static=True)

    def __call__(self, theta: Params, key: PRNGKeyArray | None = None) -> Params:
        value = self.loss(theta) if key is None else self.loss(theta, key=key)
        value = eqx.filter(value, eqx.is_inexact_array)
        check_form(value, theta, f"{self.who} returned", self.what, "theta0")
        return jax.tree.map(lambda leaf, t: leaf.astype(t.dtype), value, theta)


def check_function(function: Any, who: str, form: str) -> None:
    if not callable(function):
        raise ValueError(f"{who}={function!r} is not a function: pass `{form}`.")
