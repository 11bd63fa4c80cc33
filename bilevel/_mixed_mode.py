"""A gradient whose own derivative is taken forward over reverse."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, PRNGKeyArray, Scalar

from ._closures import put_back, take_tracers
from ._inner import evaluate, loss_holds
from ._types import PyTree

GRADIENT = "bilevel_inner_gradient"
"""What a step keeps beside its arguments; the rest of an update is cheap to compute again."""

keep_gradient = jax.checkpoint_policies.save_only_these_names(GRADIENT)


class MixedMode(eqx.Module):
    """A loss of theta whose gradient keeps nothing for its derivative but its arguments.

    Reverse mode through a step of descent keeps the activations of that step's gradient. But the
    Hessian is symmetric: u's product with the derivative of the gradient in (theta, psi) is the
    derivative, along u in theta, of the gradient in (theta, psi), and forward mode keeps nothing
    (Kemaev et al., 2025, "Scalable meta-learning via mixed-mode differentiation").
    """

    loss: Callable

    def __call__(self, theta: PyTree[Array], **kwargs: Any) -> Any:
        return self.loss(theta, **kwargs)

    def value_and_grad(
        self, theta: PyTree[Array], key: PRNGKeyArray | None
    ) -> tuple[Scalar, PyTree[Array]]:
        skeleton, values = take_tracers(self.loss)

        def compute(theta, values, key):
            loss = put_back(skeleton, values)
            return jax.value_and_grad(lambda theta: evaluate(loss, theta, key))(theta)

        def forward(*arguments):
            return compute(*arguments), arguments

        def backward(arguments, cotangents):
            theta, values, key = arguments
            of_value, of_gradient = cotangents
            moving, fixed = eqx.partition(values, eqx.is_inexact_array)

            def both(theta):
                def at(theta, moving):
                    return evaluate(put_back(skeleton, eqx.combine(moving, fixed)), theta, key)

                return jax.grad(at, (0, 1))(theta, moving)

            gradients, along = jax.jvp(both, (theta,), (of_gradient,))

            def total(along, gradient):
                return along + of_value.astype(gradient.dtype) * gradient

            return *jax.tree.map(total, along, gradients), None

        mixed = jax.custom_vjp(compute)
        mixed.defvjp(forward, backward)
        value, gradient = mixed(theta, values, key)
        return value, checkpoint_name(gradient, GRADIENT)


def in_mixed_mode(loss: Callable, theta: PyTree[Array], key: PRNGKeyArray | None) -> Callable:
    """`loss`, in mixed mode where it can be: what a custom_vjp holds has no forward mode."""
    return loss if loss_holds("custom_vjp_call", loss, theta, key) else MixedMode(loss)
