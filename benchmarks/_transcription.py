"""RCIG's Algorithm 1 transcribed step by step, in jax and optax: what speed is compared with.

Every step of a solver derives all that it needs anew: the forward pass of the network on the
distilled images, its directional derivative, the kernel of the last hidden layer and its Cholesky
factor. On a CPU the steps are compiled and dispatched from Python, because XLA's CPU loops slow
convolutions down tens of times; on an accelerator a meta-step is one program with `fori_loop`.

With h the last hidden layer at the frozen parameters, J the Jacobian of the outputs in the body
parameters, K = h h^T, lambda = rate x n, and r = y - J delta:

    inner(delta) = (1/(nC)) [ lambda/2 r^T (K + lambda I)^-1 r + lambda/2 |delta|^2 ]
    predictions  = J_B delta + h_B h^T (K + lambda I)^-1 r

Beside Algorithm 1: n in 1/(nC) counts mirror images, n in lambda does not; the label margin and the
clipping by leaf are those of the authors' code; g is scaled to norm 1 while v is solved for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar

from bilevel_distillation import Coreset
from bilevel_distillation.networks import AbstractNetwork, ConvNet, Dense, is_body, smooth_relu

Images = Float[Array, "rows height width channels"]
OneHot = Float[Array, "rows classes"]
MakeNetwork = Callable[[PRNGKeyArray], AbstractNetwork]


class PlainConvNet(AbstractNetwork):
    """The network of `ConvNet` with XLA's own convolutions, and the same weights."""

    layers: list[Any]
    head: Dense

    @staticmethod
    def of(network: ConvNet) -> "PlainConvNet":
        return PlainConvNet(network.layers, network.head)

    def features(self, x: Images) -> Float[Array, "rows features"]:
        for layer in self.layers:
            around = (layer.padding, layer.padding)
            x = lax.conv_general_dilated(
                x,
                layer.weight,
                (1, 1),
                (around, around),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = average_pool(smooth_relu(x + layer.bias))
        return x.reshape(x.shape[0], -1)


def average_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h/2 w/2 c"]:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, "VALID") / 4


def _static(default: Any) -> Any:
    return field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What Algorithm 1 leaves open.

    Attributes:
        ridge_rate: lambda / n.
        inner_steps, adjoint_steps: steps of Adam on the inner loss, and on v.
        clip: clip each leaf of the implicit gradient to the norm of the direct one.
        margin: subtract the label margin from the outer loss.
        pool_max_steps: the age at which a network of the pool is replaced.
        whole: compile a meta-step as one program; None: on an accelerator.
        inner_rate, adjoint_rate: Adam's rates, see `tune`; a change compiles nothing anew.
    """

    ridge_rate: float = _static(5e-4)
    inner_steps: int = _static(20)
    adjoint_steps: int = _static(20)
    clip: bool = _static(True)
    margin: bool = _static(True)
    pool_max_steps: int = _static(100)
    whole: bool | None = _static(None)
    inner_rate: float = 1e-3
    adjoint_rate: float = 1.0

    @property
    def one_program(self) -> bool:
        return jax.default_backend() != "cpu" if self.whole is None else self.whole


@dataclass(frozen=True)
class Member:
    """One network of the pool."""

    network: AbstractNetwork
    optimiser: PyTree[Array]
    age: int = 0


@dataclass(frozen=True)
class State:
    """What a meta-step changes; `averaged` is what is evaluated."""

    coreset: Coreset
    optimiser: PyTree[Array]
    averaged: Coreset
    average: PyTree[Array]
    pool: Sequence[Member]


def _rate_names(coreset: Coreset) -> PyTree[str]:
    return jax.tree.unflatten(jax.tree.structure(coreset), ["data", "data", "temperature"])


ADAM = optax.adam(1.0)
CORESET_OPTIMISER = optax.partition(
    {"data": optax.adabelief(3e-3), "temperature": optax.adabelief(3e-2)}, _rate_names
)
AVERAGE = optax.ema(0.99, debias=True)
POOL_OPTIMISER = optax.adam(5e-5)


def first_state(
    coreset: Coreset, make_network: MakeNetwork, models: int, key: PRNGKeyArray
) -> State:
    """A coreset that nothing has changed yet, and `models` fresh networks."""
    pool = [make_member(make_network, k) for k in jax.random.split(key, models)]
    optimiser = CORESET_OPTIMISER.init(coreset)  # pyright: ignore
    return State(coreset, optimiser, coreset, AVERAGE.init(coreset), pool)  # pyright: ignore


def make_member(make_network: MakeNetwork, key: PRNGKeyArray) -> Member:
    """A fresh network."""
    return Member(*_fresh(make_network, key))


def meta_step(
    settings: Settings,
    state: State,
    model_index: int,
    pool_steps: int,
    images: Images,
    targets: OneHot,
    key: PRNGKeyArray,
    make_network: MakeNetwork,
) -> State:
    """One iteration of Algorithm 1 on a batch of real images with one-hot targets.

    `key` and `make_network` make the network that replaces one of `pool_max_steps` steps.
    """
    member = state.pool[model_index]
    step = _compiled_step if settings.one_program else _step
    before = (state.coreset, state.optimiser, state.average, member.network, member.optimiser)
    coreset, optimiser, averaged, average, *trained = step(
        settings, before, pool_steps, images, targets
    )
    member = Member(trained[0], trained[1], member.age + pool_steps)
    if member.age >= settings.pool_max_steps:
        member = make_member(make_network, key)
    pool = list(state.pool)
    pool[model_index] = member
    return State(coreset, optimiser, averaged, average, pool)


def _step(settings, before, pool_steps, images, targets):
    coreset, optimiser, average, network, network_optimiser = before
    _, direct, implicit = _meta_gradient(settings, network, coreset, images, targets)
    coreset, optimiser, averaged, average = update(
        settings, coreset, optimiser, average, direct, implicit
    )
    network, network_optimiser = train(settings, network, network_optimiser, coreset, pool_steps)
    return coreset, optimiser, averaged, average, network, network_optimiser


def meta_gradient(
    settings: Settings, network: AbstractNetwork, coreset: Coreset, images: Images, targets: OneHot
) -> tuple[Scalar, Coreset, Coreset]:
    """The outer loss, its direct and its implicit gradient with respect to the coreset."""
    compute = _compiled_meta_gradient if settings.one_program else _meta_gradient
    return compute(settings, network, coreset, images, targets)


def _meta_gradient(settings, network, coreset, images, targets):
    delta = solve_inner(settings, network, coreset)
    value, g, direct = differentiate_outer(settings, network, coreset, delta, images, targets)
    v = solve_adjoint(settings, network, coreset, delta, g)
    return value, direct, differentiate_inner(settings, network, coreset, delta, v)


_compiled_step = jax.jit(_step)
_compiled_meta_gradient = jax.jit(_meta_gradient)


# The parts of a meta-step; each can be timed alone.


def solve_inner(settings: Settings, network: AbstractNetwork, coreset: Coreset) -> PyTree[Array]:
    """delta*: steps of Adam from zero on the inner loss."""
    delta, adam = start(network)

    def step(carry):
        return inner_step(settings, network, coreset, *carry)[:2]

    return _repeat(step, (delta, adam), settings.inner_steps, settings)[0]


@jax.jit
def inner_step(settings, network, coreset, delta, adam):
    """delta and Adam's state after a step, and the loss before it."""
    value, gradient = jax.value_and_grad(inner)(delta, settings, network, coreset)
    updates, adam = ADAM.update(gradient, adam)
    return _add(delta, updates, settings.inner_rate), adam, value


@jax.jit
def differentiate_outer(
    settings: Settings,
    network: AbstractNetwork,
    coreset: Coreset,
    delta: PyTree[Array],
    images: Images,
    targets: OneHot,
) -> tuple[Scalar, PyTree[Array], Coreset]:
    """The outer loss, its gradient g with respect to delta, and the direct gradient."""
    value_and_grad = jax.value_and_grad(outer, argnums=(0, 1))
    value, (g, direct) = value_and_grad(delta, coreset, settings, network, images, targets)
    return value, g, direct


def solve_adjoint(
    settings: Settings,
    network: AbstractNetwork,
    coreset: Coreset,
    delta: PyTree[Array],
    g: PyTree[Array],
) -> PyTree[Array]:
    """v = H^-1 g: steps of Adam from zero on v.Hv/2 - g.v (equation 7)."""
    unit, size = normalise(g)
    v, adam = start(network)

    def step(carry):
        return adjoint_step(settings, network, coreset, delta, unit, *carry)[:2]

    v, _ = _repeat(step, (v, adam), settings.adjoint_steps, settings)
    return scale(v, size)


@jax.jit
def adjoint_step(settings, network, coreset, delta, g, v, adam):
    """v and Adam's state after a step, and the loss before it."""

    def gradient_at(delta):
        return jax.grad(inner)(delta, settings, network, coreset)

    _, hv = jax.jvp(gradient_at, (delta,), (v,))
    value = 0.5 * optax.tree.vdot(v, hv) - optax.tree.vdot(v, g)
    updates, adam = ADAM.update(optax.tree.sub(hv, g), adam)
    return _add(v, updates, settings.adjoint_rate), adam, value


@jax.jit
def differentiate_inner(
    settings: Settings,
    network: AbstractNetwork,
    coreset: Coreset,
    delta: PyTree[Array],
    v: PyTree[Array],
) -> Coreset:
    """The implicit gradient, minus the derivative of <inner gradient, v> in the coreset."""

    def along_v(coreset):
        return jax.jvp(lambda d: inner(d, settings, network, coreset), (delta,), (v,))[1]

    return optax.tree.scale(-1, jax.grad(along_v)(coreset))


@jax.jit
def update(settings, coreset, optimiser, average, direct, implicit):
    """A step of the coreset's optimiser, and the moving average after it."""
    if settings.clip:
        implicit = jax.tree.map(_clip, implicit, direct)
    gradient = optax.tree.add(direct, implicit)
    updates, optimiser = CORESET_OPTIMISER.update(gradient, optimiser, coreset)
    coreset = optax.apply_updates(coreset, updates)
    averaged, average = AVERAGE.update(coreset, average)
    return coreset, optimiser, averaged, average


def train(
    settings: Settings, network: AbstractNetwork, optimiser, coreset: Coreset, steps: int
) -> tuple[AbstractNetwork, PyTree[Array]]:
    """Steps of Adam on the squared error of a network of the pool on the whole coreset."""
    return _repeat(
        lambda one: train_step(settings, *one, coreset), (network, optimiser), steps, settings
    )


@jax.jit
def train_step(settings, network, optimiser, coreset):
    """The network and its optimiser's state after a step."""
    images, labels = coreset.support()

    def loss(network):
        return 0.5 * jnp.mean(jnp.sum((network(images) - labels) ** 2, axis=1))

    updates, optimiser = POOL_OPTIMISER.update(jax.grad(loss)(network), optimiser)
    return optax.apply_updates(network, updates), optimiser


# The two losses.


def inner(delta, settings: Settings, network: AbstractNetwork, coreset: Coreset) -> Scalar:
    """The training loss, its last layer solved for (equation 5)."""
    images, labels = coreset.support()
    features, offset = _features_and_offset(delta, network, images)
    r, ridge = labels - offset, _ridge(settings, coreset)
    fit = 0.5 * ridge * jnp.vdot(r, _solve(features, r, ridge))
    return (fit + 0.5 * ridge * optax.tree.norm(delta, squared=True)) / labels.size


def outer(
    delta, coreset: Coreset, settings: Settings, network: AbstractNetwork, images, targets
) -> Scalar:
    """The Platt loss on a batch (equation 6)."""
    support, labels = coreset.support()
    features, offset = _features_and_offset(delta, network, support)
    alpha = _solve(features, labels - offset, _ridge(settings, coreset))
    with jax.default_matmul_precision("highest"):
        head = features.T @ alpha
    features, offset = _features_and_offset(delta, network, images)
    logits = (offset + features @ head) * jnp.exp(coreset.log_temperature)
    value = jnp.mean(optax.losses.softmax_cross_entropy(logits, targets))
    return value - _label_margin(coreset.labels) if settings.margin else value


def _features_and_offset(delta, network, images):
    """h and J delta."""
    body, head = eqx.partition(network, is_body(network))

    def forward(body):
        return eqx.combine(body, head).features_and_outputs(images)

    (features, _), (_, offset) = jax.jvp(forward, (body,), (delta,))
    return features, offset


def _solve(features, right, ridge):
    """(h h^T + ridge I)^-1 right."""
    # Accelerators round matrix products to fewer bits than a small ridge can bear.
    with jax.default_matmul_precision("highest"):
        kernel = features @ features.T
        factor = cho_factor(kernel + ridge * jnp.eye(kernel.shape[0], dtype=kernel.dtype))
        return cho_solve(factor, right)


def _ridge(settings, coreset):
    return settings.ridge_rate * coreset.images.shape[0]


def _label_margin(labels):
    """Mean of min(top label - second label, 1/(2C))."""
    ordered = jnp.sort(labels, axis=1)
    return jnp.mean(jnp.minimum(ordered[:, -1] - ordered[:, -2], 0.5 / labels.shape[1]))


# Rates.


def tune(
    settings: Settings, network: AbstractNetwork, coreset: Coreset, images: Images, targets: OneHot
) -> Settings:
    """The settings with the highest rates at which both losses fall at every step, times 0.7."""
    nothing = start(network)

    def inner_losses(rate):
        tried, carry, losses = replace(settings, inner_rate=rate), nothing, []
        for _ in range(settings.inner_steps):
            *carry, loss = inner_step(tried, network, coreset, *carry)
            losses.append(loss)
        return losses

    settings = replace(settings, inner_rate=_highest(inner_losses))
    delta = solve_inner(settings, network, coreset)
    _, g, _ = differentiate_outer(settings, network, coreset, delta, images, targets)
    unit, _ = normalise(g)

    def adjoint_losses(rate):
        tried, carry, losses = replace(settings, adjoint_rate=rate), nothing, []
        for _ in range(settings.adjoint_steps):
            *carry, loss = adjoint_step(tried, network, coreset, delta, unit, *carry)
            losses.append(loss)
        return losses

    return replace(settings, adjoint_rate=_highest(adjoint_losses))


def _highest(losses_at: Callable[[float], Sequence[Scalar]]) -> float:
    def falls(rate):
        losses = np.asarray(losses_at(rate))
        return np.all(np.isfinite(losses)) and np.all(np.diff(losses) <= 0)

    rate = 1e-6
    while rate < 1e6 and falls(rate * 1.2**8):
        rate *= 1.2**8
    while rate < 1e6 and falls(rate * 1.2):
        rate *= 1.2
    return 0.7 * rate


# What the parts share.


def _repeat(step, carry, steps, settings):
    if settings.one_program:
        return lax.fori_loop(0, steps, lambda _, carry: step(carry), carry)
    for _ in range(steps):
        carry = step(carry)
    return carry


@jax.jit
def start(network):
    """A zero tangent of the body parameters, and Adam's state."""
    zero = optax.tree.zeros_like(eqx.filter(network, is_body(network)))
    return zero, ADAM.init(zero)


@jax.jit
def normalise(g):
    size = optax.tree.norm(g)
    return scale(g, 1 / jnp.where(size > 0, size, 1)), size


@jax.jit
def scale(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def _add(tree, updates, rate):
    return jax.tree.map(lambda leaf, update: leaf + rate * update, tree, updates)


def _clip(implicit, direct):
    norm = jnp.linalg.norm(implicit)
    return implicit * jnp.minimum(1, jnp.linalg.norm(direct) / jnp.where(norm > 0, norm, 1))


@eqx.filter_jit
def _fresh(make_network, key):
    network = make_network(key)
    return network, POOL_OPTIMISER.init(eqx.filter(network, eqx.is_inexact_array))
