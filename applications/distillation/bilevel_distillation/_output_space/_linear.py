"""The meta-gradient of RCIG and CIG, whose inner problems are quadratic, by two linear solves.

With u(theta) = J theta the centred linearised network on the m distilled images (mirror images
included), y their labels, and R = ridge I + h h^T for RCIG, ridge I for CIG, the inner loss is

    ridge / (m C) * [ (y - u)^T R^-1 (y - u) + |theta|^2 ] / 2 .

Its solution and the adjoint are two solves with one matrix, A = J J^T + R (`_output_space`):

    theta* = J^T alpha        A alpha = y          and then  R^-1 (y - u(theta*)) = alpha
    v      = g - J^T beta     A beta  = J g        and then  R^-1 J v = beta

where v is the adjoint times ridge / (m C), the factor that the mixed derivative takes out again.
With W = h^T alpha the last layer, W' and g the derivatives of the outer loss with respect to W and
theta, and gamma = R^-1 h W', the gradient with respect to the distilled images is that of

    direct:    <h, alpha W'^T - gamma W^T - alpha (h^T gamma)^T>  -  <J theta*, gamma>
    implicit:  <h, -beta W^T - alpha (h^T beta)^T>  -  <J theta*, beta>  +  <J v, alpha>

(for CIG the second line without its first term), and the labels' is gamma and beta.

Where conjugate gradients stop early, W = h^T R^-1 (y - u(theta)) is still the last layer that is
best for that theta: R^-1 (y - u(theta)) is alpha plus the preconditioned residual. Elsewhere alpha
itself is taken, which is nearer to the solution.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._problem import (
    CONJUGATE_GRADIENTS,
    AbstractLinearized,
    AbstractSolver,
    Batch,
    Coreset,
    MetaGradient,
)
from .._running import accumulate, compiled, in_parts, join, part_size, slices
from ..networks import AbstractNetwork
from ._kernel import Kernel
from ._model import Images, Model
from ._prepare import factorises, prepare
from ._system import LinearSolver

Outputs = Float[Array, "m classes"]


class Linear(AbstractSolver):
    """The gradient by two linear solves: how they are done.

    Attributes:
        linear_solver: "cholesky", "cg", or "auto", by size.
        rtol: the relative error of a solution, estimated, in the norm of what is inverted, at
            which conjugate gradients stop.
        max_steps: of conjugate gradients, at most.
        dtype: of the factorisations, e.g. "float64"; None: that of the images.
        remat: derive products with J anew, and keep no activations.
    """

    linear_solver: LinearSolver = eqx.field(default="auto", static=True)
    rtol: float = eqx.field(default=1e-2, static=True)
    max_steps: int = eqx.field(default=64, static=True)
    dtype: str | None = eqx.field(default=None, static=True)
    remat: bool = eqx.field(default=False, static=True)

    def arithmetic(self, coreset: Coreset) -> int:
        _, labels = eqx.filter_eval_shape(lambda coreset: coreset.support(), coreset)
        rows = math.prod(labels.shape)
        return 1 if factorises(self.linear_solver, rows) else CONJUGATE_GRADIENTS

    def gradient(self, method: Any, coreset: Coreset, batch: Batch) -> MetaGradient:
        return linear_gradient(
            self, method, coreset, batch.network, batch.images, batch.targets, batch.key
        )


def linear_gradient(
    how: Linear,
    method: AbstractLinearized,
    coreset: Coreset,
    network: AbstractNetwork,
    images: Images,
    targets: Outputs,
    key: PRNGKeyArray | None = None,
) -> MetaGradient:
    """The meta-gradient on a batch of real images; `key` draws the subset, if there is one."""
    body, rest = eqx.partition(network, method.moving(network))
    model = Model(method, body, rest)
    support, labels = _support(coreset)
    h, system = prepare(
        model, support, labels.shape[1], method.ridge(coreset),
        linear_solver=how.linear_solver, dtype=how.dtype, remat=how.remat,
    )  # fmt: skip
    inner = system.solve(labels, how.rtol, how.max_steps)
    theta = system.jacobian.pull(inner.x) if inner.pulled is None else inner.pulled
    weight = None if h is None else _weight(h, inner.mended)
    value, predictions, outer = _outer(model, theta, weight, coreset, images, targets)
    g, to_weight, direct = outer
    gamma = None
    if h is not None:
        gamma = _gamma(h, system.kernel, to_weight)
        g = _minus(g, system.jacobian.pull(gamma))
    right = system.jacobian.push(g)
    adjoint = system.solve(right, how.rtol, how.max_steps, inner.searched)
    v = _minus(g, system.jacobian.pull(adjoint.x))
    rows = _draw(key, support.shape[0], method.n_subset)
    cotangents = _cotangents(h, inner.x, adjoint.x, gamma, weight, to_weight)
    to_images = _to_images(model, theta, v, support, cotangents, rows)
    directly, implicit = _to_coreset(coreset, direct, to_images, gamma, adjoint.x, rows)
    return MetaGradient(
        value=value,
        direct=directly if method.direct else None,
        implicit=implicit,
        predictions=predictions,
        inner=inner,
        adjoint=adjoint,
        measured={
            "inner_error": inner.error,
            "adjoint_error": adjoint.error,
            "inner_steps": inner.steps,
            "adjoint_steps": adjoint.steps,
        },
    )


@compiled
def _support(coreset: Coreset):
    return coreset.support()


@compiled
def _weight(h, alpha):
    with jax.default_matmul_precision("highest"):
        return h.T @ alpha


@compiled
def _gamma(h, kernel: Kernel, to_weight):
    with jax.default_matmul_precision("highest"):
        return kernel.solve(h @ to_weight)


@compiled
def _minus(one, other):
    return jax.tree.map(jnp.subtract, one, other)


def _outer(model: Model, theta, weight, coreset: Coreset, images, targets):
    """The outer loss, the predictions, and its derivatives in theta, W and, directly, psi: of a
    mean over the batch, part by part.
    """
    total = images.shape[0]

    def of(part):
        images, targets = part
        return _outer_part(model, theta, weight, coreset, images, targets, total)

    size = part_size(model.network, images, model.method.microbatch)
    (value, grads), predictions = accumulate(of, (images, targets), size)
    g, to_weight, *direct = grads
    return value, predictions, (g, to_weight, direct)


@compiled
def _outer_part(model: Model, theta, weight, coreset: Coreset, images, targets, total: int):
    method = model.method
    share = images.shape[0] / total

    def loss(moving):
        theta, weight, labels, log_temperature = moving
        h, (u,) = model.along((theta,), images)
        predictions = u if weight is None else u + h @ weight
        psi = eqx.tree_at(
            lambda c: (c.labels, c.log_temperature), coreset, (labels, log_temperature)
        )
        return share * method.loss(predictions, targets, psi), predictions

    moving = (theta, weight, coreset.labels, coreset.log_temperature)
    (value, predictions), grad = jax.value_and_grad(loss, has_aux=True)(moving)
    return (value, grad), predictions


def _draw(key: PRNGKeyArray | None, total: int, size: int | None):
    """Which rows get a gradient: None for all."""
    if size is None or size >= total:
        return None
    if key is None:
        raise ValueError(f"n_subset={size} draws from {total} distilled images: give a key.")
    return jax.random.permutation(key, total)[:size]


@compiled
def _cotangents(h, alpha, beta, gamma, weight, to_weight):
    """Cotangents of (h, J theta*) in the direct, and of (h, J theta*, J v) in the implicit part."""
    if h is None:
        return None, (None, -beta, alpha)
    with jax.default_matmul_precision("highest"):
        to_h = -beta @ weight.T - alpha @ (h.T @ beta).T
        directly = alpha @ to_weight.T - gamma @ weight.T - alpha @ (h.T @ gamma).T
    return (directly, -gamma), (to_h, -beta, alpha)


def _to_images(model: Model, theta, v, support, cotangents, rows):
    """The direct (None for CIG) and the implicit gradient, of all images or of those in `rows`."""
    if rows is not None:
        total, size = support.shape[0], rows.shape[0]
        support, cotangents = _take_rows((support, cotangents), rows, total / size)
    size = part_size(model.network, support, model.method.microbatch, holds=2.0)
    starts = slices(jnp.arange(support.shape[0]), size)
    if len(starts) == 1:
        return _to_part(model, theta, v, support, cotangents, None)
    return join([_to_part(model, theta, v, support, cotangents, part) for part in starts])


@compiled
def _take_rows(tree, rows, scale: float):
    support, cotangents = jax.tree.map(lambda leaf: leaf[rows], tree)
    return support, jax.tree.map(lambda leaf: leaf * scale, cotangents)


@compiled
def _to_part(model: Model, theta, v, support, cotangents, rows):
    if rows is not None:
        support, cotangents = jax.tree.map(lambda leaf: leaf[rows], (support, cotangents))

    def gradient(part):
        images, (direct, implicit) = part

        def paired(images, tangents, cotangents):
            h, outputs = model.along(tangents, images)
            pairs = zip((h, *outputs), cotangents, strict=True)
            return sum(jnp.vdot(found, c) for found, c in pairs if c is not None)

        directly = None if direct is None else jax.grad(paired)(images, (theta,), direct)
        return directly, jax.grad(paired)(images, (theta, v), implicit)

    return in_parts(gradient, (support, cotangents), model.method.microbatch)


@compiled
def _to_coreset(coreset: Coreset, direct, to_images, gamma, beta, rows):
    """Both gradients as coresets, mirror images folded back onto the stored ones."""

    def doubled(images, labels):
        return Coreset(images, labels, coreset.log_temperature, coreset.flip).support()

    support, fold = jax.vjp(doubled, coreset.images, coreset.labels)

    def folded(images, labels):
        if images is None:
            images = jnp.zeros_like(support[0])
        elif rows is not None:
            images = jnp.zeros_like(support[0]).at[rows].set(images)
        labels = jnp.zeros_like(support[1]) if labels is None else labels
        return fold((images, labels))

    to_labels, to_temperature = direct
    images, labels = folded(to_images[0], gamma)
    directly = Coreset(images, labels + to_labels, to_temperature, coreset.flip)
    images, labels = folded(to_images[1], beta)
    return directly, Coreset(images, labels, jnp.zeros_like(to_temperature), coreset.flip)
