"""One meta-step: a gradient, a step of the coreset, a few of a network of the pool."""

from typing import Any, cast

import equinox as eqx
import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from .._problem import Batch, Coreset, MetaGradient
from .._running import compiled, constrain, either, pick, repeat
from ..networks import AbstractNetwork
from ._gradient import coreset_gradient, metrics_of
from ._pool import Member, Pool, make_member, put, take, train_step
from ._state import Draws, Metrics, Recipe, State
from ._training_data import Training


def meta_step(fixed: tuple[Recipe, Training], state: State, draws: Draws) -> tuple[State, Metrics]:
    """One meta-step (Algorithm 1 of the RCIG paper).

    On an accelerator, and on several devices, it is compiled whole (`compiled_meta_step`). On a CPU
    it is called as it is: its parts are compiled, and the steps of its solvers dispatched from
    Python.
    """
    recipe, training = fixed
    member = _take(recipe.mesh, state.pool, draws.model)
    images, targets = constrain(recipe.mesh, _batch(training, draws.rows))
    key = _for_rows(draws.key)
    batch = Batch(
        images, targets, member.network, state.rates, key, state.carried, training.prepared,
        _fresh_networks(recipe, draws.key),
    )  # fmt: skip
    result = coreset_gradient(recipe, state.coreset, batch)
    coreset, optimiser, averaged, average, metrics = _update(recipe, state, result, targets)
    if recipe.method.trains_pool:
        member = _train(recipe, member, coreset, draws.pool_steps)
        member = _renew(recipe, member, draws.key)
    else:
        member = _fresh(recipe, draws.key)
    pool = _put(draws.model, state.pool, member)
    carried = state.carried if result.carried is None else result.carried
    after = State(coreset, optimiser, averaged, average, pool, state.rates, carried)
    return constrain(recipe.mesh, (after, metrics))


@eqx.filter_jit(donate="all-except-first")
def _whole(kept, state: State) -> tuple[State, Metrics]:
    fixed, draws = kept
    return meta_step(fixed, state, draws)


class _CompiledMetaStep:
    """`meta_step` as one program. It uses up the state that it is given, and nothing else."""

    def __call__(self, fixed: Any, state: State, draws: Draws) -> tuple[State, Metrics]:
        return _whole((fixed, draws), state)

    def lower(self, fixed: Any, state: State, draws: Draws) -> Any:
        return cast(Any, _whole).lower((fixed, draws), state)


compiled_meta_step: _CompiledMetaStep = _CompiledMetaStep()


@jax.jit
def _for_rows(key: PRNGKeyArray) -> PRNGKeyArray:
    return jax.random.fold_in(key, 1)


@compiled
def _take(mesh: Mesh | None, pool: Pool, index) -> Member:
    if mesh is None:
        return take(pool, index)
    return Member(pick(pool.networks, index), pick(pool.optimisers, index), pick(pool.ages, index))


@compiled
def _batch(training: Training, rows):
    return training.batch(rows)


@compiled
def _update(recipe: Recipe, state: State, result: MetaGradient, targets) -> Any:
    gradient = result.clipped() if recipe.clip_implicit else result.grad
    psi: Any = state.coreset  # optax's types know arrays and containers, no modules
    updates, optimiser = recipe.optimiser.update(gradient, state.optimiser, psi)  # pyright: ignore
    coreset = optax.apply_updates(psi, updates)
    averaged, average = recipe.average.update(coreset, state.average)
    return coreset, optimiser, averaged, average, metrics_of(result, targets)


def _train_step(recipe: Recipe, member: Member, coreset: Coreset) -> Member:
    loss = recipe.method.pool_loss
    return train_step(member, recipe.pool_optimiser, coreset, recipe.microbatch, loss)


def _train(recipe: Recipe, member: Member, coreset: Coreset, steps) -> Member:
    return repeat(lambda _, member: _train_step(recipe, member, coreset), member, steps)


def _renew(recipe: Recipe, member: Member, key: PRNGKeyArray) -> Member:
    """The member, or a fresh one where it has had its training steps."""
    old = member.age >= recipe.pool_max_steps
    return either(old, lambda: _fresh(recipe, key), member)


@compiled
def _fresh(recipe: Recipe, key: PRNGKeyArray) -> Member:
    return make_member(recipe.make_network, recipe.pool_optimiser, key)


def _fresh_networks(recipe: Recipe, key: PRNGKeyArray) -> AbstractNetwork | None:
    """As many as the method asks for, stacked."""
    return _several(recipe, key) if recipe.method.fresh_networks else None


@compiled
def _several(recipe: Recipe, key: PRNGKeyArray) -> AbstractNetwork:
    keys = jax.random.split(jax.random.fold_in(key, 2), recipe.method.fresh_networks)
    return eqx.filter_vmap(lambda one: eqx.nn.inference_mode(recipe.make_network(one)))(keys)


@eqx.filter_jit(donate="all-except-first")
def _put(index: Int[Array, ""], pool: Pool, member: Member) -> Pool:
    return put(pool, index, member)
