"""The empirical tangent kernel of a network, as the system that its ridge regression solves."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .._problem import AbstractLinearized
from ..networks import AbstractNetwork
from ._model import Model
from ._prepare import prepare
from ._system import System


def tangent_kernel(
    method: AbstractLinearized,
    network: AbstractNetwork,
    images: Float[Array, "m height width channels"],
    others: Float[Array, "k height width channels"],
    classes: int,
    ridge: float,
) -> tuple[System, Callable[[Array], Array]]:
    """`K + ridge I` among some images, factorised, and the product with K between others and them:
    K = J J^T + h h^T.

    Args:
        method: says which parameters move.
        network: at whose parameters J and h are taken.
        images: the former.
        others: the latter.
        classes: outputs of the network.
        ridge: above 0.

    Returns:
        The system, with m times classes rows, and a function from (m, classes) to (k, classes).
    """
    body, rest = eqx.partition(network, method.moving(network))
    model = Model(method, body, rest)
    h, system = prepare(
        model, images, classes, ridge, linear_solver="cholesky", dtype=None, remat=False
    )

    def across(a: Float[Array, "m classes"]) -> Float[Array, "k classes"]:
        tangent = system.jacobian.pull(a)
        of_others, (moved,) = model.along((tangent,), others)
        if h is None:
            return moved
        with jax.default_matmul_precision("highest"):
            return moved + of_others @ (h.T @ a)

    return system, across
