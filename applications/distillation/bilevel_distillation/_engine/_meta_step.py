"""One meta-iteration: a hypergradient, a step on the coreset, a few on a network of the pool."""

from typing import Any, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from bilevel import Hypergradient, hypergradient
from bilevel.inverse_hvp import CG, SGD
from bilevel.solvers import GradientDescent

from .._output_space import Exact, MetaGradient, exact_gradient
from .._problem import AbstractLinearized, AbstractMethod, Coreset
from .._running import compiled, constrain, pick
from ..data import augment
from ..networks import AbstractNetwork
from ._pool import MakeNetwork, Member, Pool, make_member, put, take, train_step, with_statistics
from ._training_data import Training

Solve = Literal["exact", "adam"]


class Rates(eqx.Module):
    """Learning rates of Adam in the inner problem and in the adjoint (the paper's way)."""

    inner: Scalar
    adjoint: Scalar


class Recipe(eqx.Module):
    """All that a meta-iteration is made of, beside its state and the data.

    Attributes:
        method: one of the five.
        solve: "exact" (RCIG and CIG: two linear solves; VIG and RIG: conjugate gradients in the
            adjoint alone, their inner problem being trained by Adam) or "adam" (the paper's way: a
            fixed number of Adam steps in both, the Hessian-vector product derived anew at each).
        exact: how exactly, and by what; VIG and RIG take its tolerance as a relative residual.
        adam_steps: steps of Adam, in the inner problem and in the adjoint.
        clip_implicit: clip each leaf of the implicit gradient to the norm of the direct one.
        optimiser: of the coreset.
        average: the moving average of the coreset, an `optax.ema`.
        pool_optimiser: of the networks of the pool.
        make_network: a fresh network from a key.
        batch_size: real images a meta-iteration.
        most_pool_steps: the age at which a network of the pool is replaced.
        augment: change the distilled images at random in each meta-gradient.
        mesh: the devices, where there are several and the step is compiled whole.
    """

    method: AbstractMethod
    solve: Solve = eqx.field(static=True)
    exact: Exact
    adam_steps: int = eqx.field(static=True)
    clip_implicit: bool = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    average: optax.GradientTransformation = eqx.field(static=True)
    pool_optimiser: optax.GradientTransformation = eqx.field(static=True)
    make_network: MakeNetwork = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    most_pool_steps: int = eqx.field(static=True)
    augment: bool = eqx.field(default=False, static=True)
    mesh: Mesh | None = eqx.field(default=None, static=True)

    @property
    def has_rates(self) -> bool:
        """Whether Adam's rates matter."""
        return self.method.implicit and not self.solves_exactly

    @property
    def solves_exactly(self) -> bool:
        """Whether the inner problem is solved by linear algebra."""
        return self.solve == "exact" and isinstance(self.method, AbstractLinearized)

    def solvers(self, rates: Rates):
        """The inner solver and the inverse Hessian."""
        adam = GradientDescent(optax_adam, self.adam_steps, scale=rates.inner)
        if self.solve == "adam":
            return adam, SGD(optax_adam, self.adam_steps, scale=rates.adjoint, rederive=True)
        return adam, CG(rtol=self.exact.tolerance, max_steps=self.exact.max_steps)


optax_adam = optax.adam(1.0)


class State(eqx.Module):
    """What a meta-iteration changes.

    Attributes:
        coreset: the current iterate.
        optimiser: the state of its optimiser.
        averaged: the moving average of the coreset, debiased: what is evaluated and released.
        average: the state of the moving average.
        pool: the networks.
        rates: Adam's learning rates.
    """

    coreset: Coreset
    optimiser: PyTree[Array]
    averaged: Coreset
    average: PyTree[Array]
    pool: Pool
    rates: Rates


class Draws(eqx.Module):
    """The random choices of one meta-iteration, made from the run's seed and its number alone.

    Attributes:
        model: which network of the pool.
        pool_steps: how many training steps it gets afterwards.
        rows: which real images make the batch.
        key: for a fresh network.
    """

    model: Int[Array, ""]
    pool_steps: Int[Array, ""]
    rows: Int[Array, " batch"]
    key: PRNGKeyArray


class Metrics(eqx.Module):
    """What is written of a meta-iteration; scalars, NaN where a method has no such thing.

    Attributes:
        loss: the outer loss.
        accuracy: of the predictions on the batch.
        inner_error, adjoint_error: of the two linear solves, estimated, relative, in the norm of
            what they invert (the exact way of RCIG and CIG).
        inner_steps: how many were taken; 0 by Cholesky.
        adjoint_steps: likewise.
        inner_gradient_norm: at theta* (elsewhere).
        adjoint_residual: relative (elsewhere).
        implicit_share: |implicit| / |direct + implicit| for the images.
        inner_descended, inner_monotone: whether the inner loss ended lower, and never rose.
        adjoint_descended, adjoint_monotone: likewise for the adjoint's loss (equation 7).
    """

    loss: Scalar
    accuracy: Scalar
    inner_error: Scalar
    adjoint_error: Scalar
    inner_steps: Scalar
    adjoint_steps: Scalar
    inner_gradient_norm: Scalar
    adjoint_residual: Scalar
    implicit_share: Scalar
    inner_descended: Scalar
    inner_monotone: Scalar
    adjoint_descended: Scalar
    adjoint_monotone: Scalar

    def course(self) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """Whether the inner loss and the adjoint's descended, and whether each step of them did."""
        return (
            self.inner_descended,
            self.inner_monotone,
            self.adjoint_descended,
            self.adjoint_monotone,
        )


def meta_step(fixed: tuple[Recipe, Training], state: State, draws: Draws) -> tuple[State, Metrics]:
    """One meta-iteration (Algorithm 1 of the RCIG paper).

    On an accelerator, and on several devices, it is compiled whole (`compiled_meta_step`). On a CPU
    it is called as it is: its parts are compiled, and the steps of its solvers dispatched from
    Python, because XLA's CPU loops slow convolutions down tens of times.
    """
    recipe, training = fixed
    member = _take(recipe.mesh, state.pool, draws.model)
    images, targets = constrain(recipe.mesh, _batch(training, draws.rows))
    result = coreset_gradient(
        recipe, state.coreset, member.network, state.rates, images, targets, _for_rows(draws.key)
    )
    coreset, optimiser, averaged, average, metrics = _update(recipe, state, result, targets)
    member = _train(recipe, member, coreset, draws.pool_steps)
    member = _renew(recipe, member, draws.key)
    pool = _put(draws.model, state.pool, member)
    after = State(coreset, optimiser, averaged, average, pool, state.rates)
    return constrain(recipe.mesh, (after, metrics))


@eqx.filter_jit(donate="all-except-first")
def _whole(kept, state: State) -> tuple[State, Metrics]:
    fixed, draws = kept
    return meta_step(fixed, state, draws)


class _CompiledMetaStep:
    """`meta_step` as one program. It uses up the state that it is given, and nothing else."""

    def __call__(self, fixed, state: State, draws: Draws) -> tuple[State, Metrics]:
        return _whole((fixed, draws), state)

    def lower(self, fixed, state: State, draws: Draws) -> Any:
        return cast(Any, _whole).lower((fixed, draws), state)


compiled_meta_step = _CompiledMetaStep()


def coreset_gradient(
    recipe: Recipe,
    coreset: Coreset,
    network: AbstractNetwork,
    rates: Rates,
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    key: PRNGKeyArray,
) -> "MetaGradient | Hypergradient | DirectGradient":
    """The hypergradient of the outer loss on a batch with respect to the coreset.

    `key` draws the distilled images that are differentiated, where not all are, and how they are
    augmented. The statistics of batch normalisation are those of the coreset, and held fixed.
    """
    if not recipe.augment:
        return _coreset_gradient(recipe, coreset, network, rates, images, targets, key)
    changed = _augmented(coreset, key)
    result = _coreset_gradient(recipe, changed, network, rates, images, targets, key)

    def parts(result):
        return [getattr(result, name) for name in ("direct", "implicit") if hasattr(result, name)]

    return eqx.tree_at(parts, result, [_to_stored(coreset, key, part) for part in parts(result)])


@compiled
def _augmented(coreset: Coreset, key: PRNGKeyArray) -> Coreset:
    changed = augment(coreset.images, jax.random.fold_in(key, 1))
    return Coreset(changed, coreset.labels, coreset.log_temperature)


@compiled
def _to_stored(coreset: Coreset, key: PRNGKeyArray, gradient: Coreset) -> Coreset:
    """A derivative with respect to the augmented coreset, taken back to the stored one."""
    _, pull = jax.vjp(lambda coreset: _augmented(coreset, key), coreset)
    return pull(gradient)[0]


def _coreset_gradient(recipe: Recipe, coreset: Coreset, network, rates, images, targets, key):
    method = recipe.method
    network = with_statistics(network, coreset, method.flip)
    if recipe.solves_exactly:
        assert isinstance(method, AbstractLinearized)
        return exact_gradient(recipe.exact, method, coreset, network, images, targets, key)
    drawn = key if method.subsamples(coreset) else None
    if not method.implicit:
        return _direct_only(method, coreset, network, images, targets, drawn)
    solver, inverse_hvp = recipe.solvers(rates)
    compute = hypergradient(
        method.outer, method.inner, solver=solver, inverse_hvp=inverse_hvp, has_aux=True,
        throw="ignore",
    )  # fmt: skip
    return compute(
        coreset,
        _start(method, network),
        outer_args=(network, images, targets, drawn),
        inner_args=(network,),
        key=drawn,
    )


@jax.jit
def _for_rows(key: PRNGKeyArray) -> PRNGKeyArray:
    return jax.random.fold_in(key, 1)


class DirectGradient(eqx.Module):
    """The gradient of a method without an inner problem."""

    value: Scalar
    aux: Any
    direct: Coreset

    @property
    def grad(self) -> Coreset:
        return self.direct


@compiled
def _start(method, network):
    return method.start(network)


@compiled
def _direct_only(method, coreset, network, images, targets, key):
    def loss(coreset):
        return method.outer(method.start(network), coreset, network, images, targets, key)

    (value, aux), grad = eqx.filter_value_and_grad(loss, has_aux=True)(coreset)
    return DirectGradient(value, aux, grad)


@compiled
def _take(mesh: Mesh | None, pool: Pool, index) -> Member:
    if mesh is None:
        return take(pool, index)
    return Member(pick(pool.networks, index), pick(pool.optimisers, index), pick(pool.ages, index))


@compiled
def _batch(training: Training, rows):
    return training.batch(rows)


@compiled
def _update(recipe: Recipe, state: State, result, targets) -> Any:
    gradient = result.grad
    if recipe.method.implicit and recipe.method.direct and recipe.clip_implicit:
        clipped = jax.tree.map(_clip, result.implicit, result.direct)
        gradient = optax.tree.add(result.direct, clipped)
    psi: Any = state.coreset  # optax's types know arrays and containers, no modules
    updates, optimiser = recipe.optimiser.update(gradient, state.optimiser, psi)
    coreset = optax.apply_updates(psi, updates)
    averaged, average = recipe.average.update(coreset, state.average)
    return coreset, optimiser, averaged, average, _metrics(recipe.method, result, targets)


def _clip(implicit, direct):
    norm = jnp.linalg.norm(implicit)
    return implicit * jnp.minimum(1, jnp.linalg.norm(direct) / jnp.where(norm > 0, norm, 1))


def _metrics(method, result, targets) -> Metrics:
    hits = jnp.argmax(result.aux, axis=1) == jnp.argmax(targets, axis=1)
    accuracy = jnp.mean(hits)
    nan = jnp.full((), jnp.nan)
    if not method.implicit:
        return Metrics(result.value, accuracy, *([nan] * 11))
    share = jnp.linalg.norm(result.implicit.images) / jnp.linalg.norm(result.grad.images)
    inner, adjoint = result.inner, result.adjoint
    steps = inner.steps, adjoint.steps
    if isinstance(result, MetaGradient):
        return Metrics(
            result.value,
            accuracy,
            inner.error,
            adjoint.error,
            *steps,
            nan,
            nan,
            share,
            *([nan] * 4),
        )
    return Metrics(
        result.value,
        accuracy,
        nan,
        nan,
        *steps,
        inner.gradient_norm,
        adjoint.residual,
        share,
        *_course(inner.losses),
        *((nan, nan) if adjoint.losses is None else _course(adjoint.losses)),
    )


def _course(losses):
    return losses[-1] < losses[0], jnp.all(jnp.diff(losses) <= 0)


def _train_step(recipe: Recipe, member: Member, coreset: Coreset) -> Member:
    method = recipe.method
    return train_step(member, recipe.pool_optimiser, coreset, method.flip, method.microbatch)


def _train(recipe: Recipe, member: Member, coreset: Coreset, steps) -> Member:
    if not isinstance(steps, Tracer):
        for _ in range(int(steps)):
            member = _train_step(recipe, member, coreset)
        return member
    arrays, static = eqx.partition(member, eqx.is_array)

    def body(_, arrays):
        after = _train_step(recipe, eqx.combine(arrays, static), coreset)
        return eqx.filter(after, eqx.is_array)

    return eqx.combine(lax.fori_loop(0, steps, body, arrays), static)


def _renew(recipe: Recipe, member: Member, key: PRNGKeyArray) -> Member:
    """The member, or a fresh one where it has had its training steps."""
    if not isinstance(member.age, Tracer):
        return _fresh(recipe, key) if member.age >= recipe.most_pool_steps else member
    fresh, old = _fresh(recipe, key), member.age >= recipe.most_pool_steps
    return jax.tree.map(
        lambda new, kept: jnp.where(old, new, kept) if eqx.is_array(kept) else kept, fresh, member
    )


@compiled
def _fresh(recipe: Recipe, key: PRNGKeyArray) -> Member:
    return make_member(recipe.make_network, recipe.pool_optimiser, key)


@eqx.filter_jit(donate="all-except-first")
def _put(index: Int[Array, ""], pool: Pool, member: Member) -> Pool:
    return put(pool, index, member)
