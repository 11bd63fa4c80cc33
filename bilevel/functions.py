"""What `hypergradient`, `argmin` and their like return: the functions, and how they are called.

They are for annotations (`def train(grad: GradFn) -> None`) and for looking up; nobody makes one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import PRNGKeyArray

from ._types import PyTree

if TYPE_CHECKING:
    from ._check import HypergradientCheck
    from ._record import Hypergradient

__all__ = [
    "CheckFn",
    "GradFn",
    "HypergradientFn",
    "SolutionFn",
    "UnrolledGradFn",
    "UnrolledValueAndGradFn",
    "ValueAndGradFn",
]

_F = TypeVar("_F", bound=Callable[..., Any])


@runtime_checkable
class HypergradientFn(Protocol):
    """What `hypergradient` returns."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> "Hypergradient":
        """The outer loss, its gradient with respect to psi, and how far that can be trusted.

        Args:
            psi: the outer variables; any pytree. Its floating-point arrays are differentiated.
            theta0: where the inner solver starts; any pytree.
            outer_args: what `outer` takes after theta and psi; a tuple.
            inner_args: what `inner` takes after theta and psi; a tuple.
            key: makes the inner loss stochastic: a fresh key at each solver step and each
                Hessian-vector product, handed to `inner` as `key=`.
            v0: a warm start of the adjoint: the `adjoint.v` of an earlier call, or a tree like
                theta0 of zeros (`eqx.filter(theta0, eqx.is_inexact_array)` has its form).

        Returns:
            A `Hypergradient`.

        Raises:
            ValueError: arguments that cannot work, before anything is solved.
            RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.
        """
        ...


@runtime_checkable
class ValueAndGradFn(Protocol):
    """What `implicit_value_and_grad` returns."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> tuple[Any, PyTree]:
        """The outer loss and its gradient with respect to psi.

        Args:
            psi: the outer variables; any pytree. Its floating-point arrays are differentiated.
            theta0: where the inner solver starts; any pytree.
            outer_args: what `outer` takes after theta and psi; a tuple.
            inner_args: what `inner` takes after theta and psi; a tuple.
            key: makes the inner loss stochastic: a fresh key at each solver step and each
                Hessian-vector product, handed to `inner` as `key=`.
            v0: a warm start of the adjoint, shaped like theta0.

        Returns:
            `(value, grad)`, or `((value, aux), grad)` with `has_aux`; `grad` shaped like psi.

        Raises:
            ValueError: arguments that cannot work, before anything is solved.
            RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.
        """
        ...


@runtime_checkable
class GradFn(Protocol):
    """What `implicit_grad` returns."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> Any:
        """The gradient of the outer loss with respect to psi.

        Args:
            psi: the outer variables; any pytree. Its floating-point arrays are differentiated.
            theta0: where the inner solver starts; any pytree.
            outer_args: what `outer` takes after theta and psi; a tuple.
            inner_args: what `inner` takes after theta and psi; a tuple.
            key: makes the inner loss stochastic: a fresh key at each solver step and each
                Hessian-vector product, handed to `inner` as `key=`.
            v0: a warm start of the adjoint, shaped like theta0.

        Returns:
            `grad`, shaped like psi, or `(grad, aux)` with `has_aux`.

        Raises:
            ValueError: arguments that cannot work, before anything is solved.
            RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.
        """
        ...


@runtime_checkable
class SolutionFn(Protocol):
    """What `argmin`, `root` and `fixed_point` return; `jax.grad` goes through it."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *inner_args: Any,
        key: PRNGKeyArray | None = None,
        **inner_kwargs: Any,
    ) -> Any:
        """The solution, which can be differentiated with respect to psi and the inner arguments.

        Args:
            psi: what the solution depends on; any pytree.
            theta0: where the solver starts; any pytree.
            *inner_args: what the inner function takes after theta and psi.
            key: makes it stochastic; handed to it as `key=`, a fresh one at each evaluation.
            **inner_kwargs: its keyword arguments.

        Returns:
            theta*, shaped like theta0, or `(theta*, record)` with `with_record`.

        Raises:
            ValueError: arguments that cannot work, before anything is solved.
            RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.
        """
        ...


@runtime_checkable
class CheckFn(Protocol):
    """What `check_hypergradient` returns."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
    ) -> "HypergradientCheck":
        """The hypergradient beside finite differences of the problem solved again.

        Args:
            psi: the outer variables; any pytree.
            theta0: where the inner solver starts; any pytree.
            outer_args: what `outer` takes after theta and psi; a tuple.
            inner_args: what `inner` takes after theta and psi; a tuple.
            key: of a stochastic inner loss; used for both sides of a difference alike.

        Returns:
            A `HypergradientCheck`: `print` it.

        Raises:
            ValueError: a call under `jax.jit`; arguments that cannot work.
        """
        ...


@runtime_checkable
class UnrolledValueAndGradFn(Protocol):
    """What `unrolled_value_and_grad` returns."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, PyTree]:
        """The outer loss after the solver's steps, and its gradient through them.

        Args:
            psi: the outer variables; any pytree.
            theta0: where the descent starts; any pytree, held fixed.
            outer_args: what `outer` takes after theta and psi; a tuple.
            inner_args: what `inner` takes after theta and psi; a tuple.
            key: makes the inner loss stochastic; a fresh one at each step.

        Returns:
            `(value, grad)`, or `((value, aux), grad)` with `has_aux`; `grad` shaped like psi.

        Raises:
            RuntimeError: a gradient that is not finite and `throw="raise"`.
        """
        ...


@runtime_checkable
class UnrolledGradFn(Protocol):
    """What `unrolled_grad` returns."""

    def __call__(
        self,
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """The gradient of the outer loss through the solver's steps.

        Args:
            psi: the outer variables; any pytree.
            theta0: where the descent starts; any pytree, held fixed.
            outer_args: what `outer` takes after theta and psi; a tuple.
            inner_args: what `inner` takes after theta and psi; a tuple.
            key: makes the inner loss stochastic; a fresh one at each step.

        Returns:
            `grad`, shaped like psi, or `(grad, aux)` with `has_aux`.

        Raises:
            RuntimeError: a gradient that is not finite and `throw="raise"`.
        """
        ...


def _described(kind: type, name: str) -> Callable[[_F], _F]:
    """Gives a function the words of its kind, for `help`, and a name of its own."""

    def describe(function: _F) -> _F:
        function.__doc__ = kind.__call__.__doc__
        function.__name__ = function.__qualname__ = name
        return function

    return describe
