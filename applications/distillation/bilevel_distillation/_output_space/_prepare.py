"""The systems of a meta-gradient, as large as they are: J and R from a network and its images."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._running import compiled, in_parts, is_traced, join, part_size, slices
from ._jacobian import Jacobian, Linearized, Rederived, Rows
from ._kernel import Kernel
from ._model import Images, Model, ModelOutputs
from ._system import MOST_FACTORISED, LinearSolver, System


def prepare(
    model: Model,
    support: Images,
    classes: int,
    ridge: float,
    *,
    linear_solver: LinearSolver,
    dtype: Any,
    remat: bool,
):
    """The frozen features (None for CIG) and A."""
    factorise = factorises(linear_solver, support.shape[0] * classes)
    holds = 1.0 if remat else 0.5
    size = part_size(model.network, support, model.method.microbatch, holds=holds)
    blocks, features = [], []
    for part in slices(support, size):
        if factorise:
            features.append(_features(model, part))
            continue
        h, block = (_rederived if remat else _linearized)(model, part)
        features.append(h)
        blocks.append(block)
    if factorise:
        blocks = [_matrix(model, support)]
    h = join(features) if model.method.closed_form else None
    kernel = _kernel(h, ridge, dtype or support.dtype)
    return h, System.make(Jacobian.make(blocks, model.body), kernel)


def factorises(linear_solver: LinearSolver, rows: int) -> bool:
    """Whether A is factorised, which has so many rows."""
    return linear_solver == "cholesky" or (linear_solver == "auto" and rows <= MOST_FACTORISED)


@compiled
def _features(model: Model, images):
    def features(images):
        return model.features_and_outputs(model.body, images)[0]

    return in_parts(features, images, model.method.microbatch)


@compiled
def _linearized(model: Model, images):
    def outputs_and_features(body):
        def both(images):
            return model.features_and_outputs(body, images)[::-1]

        return in_parts(both, images, model.method.microbatch)

    _, linear, h = jax.linearize(outputs_and_features, model.body, has_aux=True)
    return h, Linearized(linear, images.shape[0])


@compiled
def _rederived(model: Model, images):
    return _features(model, images), Rederived(
        ModelOutputs(model, images), model.body, images.shape[0]
    )


def _matrix(model: Model, support) -> Rows:
    rows = support.shape[0]
    if is_traced(support):
        return Rows(_rows_of(model, support), rows)
    # One image at a time: XLA's CPU backend is slow where each image has a gradient of its own.
    return Rows(join([_rows_of(model, image) for image in slices(support, 1)]), rows)


@compiled
def _rows_of(model: Model, images):
    def of(image):
        def outputs(body):
            return model.features_and_outputs(body, image[None])[1][0]

        out, pull = jax.vjp(outputs, model.body)
        each = jax.vmap(lambda one: pull(one)[0])(jnp.eye(out.size, dtype=out.dtype))
        return jax.vmap(lambda tree: ravel_pytree(tree)[0])(each)

    if images.shape[0] == 1:
        return of(images[0])
    rows = jax.vmap(of)(images)
    return rows.reshape(-1, rows.shape[-1])


@compiled
def _kernel(h, ridge: float, dtype):
    return Kernel.make(h, ridge, dtype)
