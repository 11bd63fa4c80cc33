"""A meta-iteration: the same compiled and dispatched, and each of its parts against its formula."""

import warnings
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_distillation import RunConfig, resolve
from bilevel_distillation._engine._meta_step import _update
from bilevel_distillation._engine._pool import take
from bilevel_distillation._engine._recipe import first_state, make_recipe
from bilevel_distillation.engine import (
    Batch,
    Draws,
    Rates,
    Training,
    coreset_gradient,
    meta_step,
)

FIVE = ("vig", "cig", "rig", "rcig", "frepo")
SHAPE, CLASSES, SAMPLES = (4, 4, 1), 3, 24
TINY = RunConfig(
    width=3,
    depth=1,
    batch_size=12,
    ridge_rate=0.1,  # so large that a few steps come near the solution
    linear_solver="cg",
    rtol=1e-12,
    cg_max_steps=3,  # unrolled in the compiled step
    adam_steps=2,
    pool_size=3,
    pool_max_steps=4,
    coreset_rate=1e-2,
    temperature_rate=1e-1,
    average_decay=0.9,
)


def doubled(tree):
    """The same in float64."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def prepare(**changes):
    """((recipe, training), state) of a tiny problem with random images."""
    config = resolve(replace(TINY, **changes), SHAPE, CLASSES)
    rng = np.random.default_rng(0)
    training = Training(
        jnp.asarray(rng.normal(size=(SAMPLES, *SHAPE))),
        jnp.asarray(np.arange(SAMPLES) % CLASSES, jnp.int32),
        CLASSES,
    )
    recipe = make_recipe(replace(config, out=TINY.out), SHAPE, CLASSES, SAMPLES)
    n = config.ipc * CLASSES
    labels = np.asarray(training.labels[:n])
    state = doubled(first_state(recipe, config, training.images[:n], labels, CLASSES))
    rates = Rates(jnp.asarray(1e-3), jnp.asarray(1.0))
    return (recipe, training), eqx.tree_at(lambda s: s.rates, state, rates)


def draw(i, model=1, steps=2):
    rows = np.random.default_rng(i).choice(SAMPLES, 12, replace=False)
    return Draws(
        jnp.asarray(model, jnp.int32),
        jnp.asarray(steps, jnp.int32),
        jnp.asarray(rows, jnp.int32),
        jax.random.key(i),
    )


def copy(tree):
    """`meta_step` may use up the state that it is given."""
    return jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, tree)


def gradient_of(fixed, state, draws):
    recipe, training = fixed
    network = take(state.pool, draws.model).network
    targets = jnp.eye(CLASSES)[training.labels[draws.rows]]
    images = training.images[draws.rows]
    batch = Batch(images, targets, network, state.rates, draws.key)
    return coreset_gradient(recipe, state.coreset, batch)


@pytest.mark.parametrize(
    ("method", "changes"),
    [(name, {}) for name in FIVE]
    + [("rcig", dict(solve="adam")), ("rcig", dict(linear_solver="cholesky")),
       ("rcig", dict(microbatch=2, ipc=2, n_subset=4)), ("rcig", dict(remat=True))],
)  # fmt: skip
def test_compiled_and_dispatched_steps_agree_to_rounding(x64, method, changes, distance):
    fixed, start = prepare(method=method, **changes)
    whole = eqx.filter_jit(meta_step)
    one = other = start
    # Network 1 gets 2 + 2 training steps and is then renewed; the third step trains the new one.
    for i in range(3):
        one, told = meta_step(fixed, copy(one), draw(i))
        other, also_told = whole(fixed, copy(other), draw(i))
        assert list(one.pool.ages) == list(other.pool.ages) == [0, (2, 0, 2)[i], 0]
        assert told.values.keys() == also_told.values.keys()
        for name, value in told.values.items():
            expected = float(also_told[name])
            # A residual near the tolerance is a difference of nearly equal numbers.
            slack = 1e-7 if name.endswith(("residual", "gradient_norm", "error")) else 1e-12
            assert float(value) == pytest.approx(expected, rel=1e-6, abs=slack, nan_ok=True), name
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
    assert distance(one.coreset, start.coreset) > 1e-3
    assert told.loss != 0 and ("adjoint_steps" in told.values) is (method != "frepo")


def test_only_the_drawn_network_of_the_pool_changes(x64):
    fixed, start = prepare(method="frepo")
    after, _ = meta_step(fixed, copy(start), draw(0, model=2, steps=3))
    assert list(after.pool.ages) == [0, 0, 3]
    changed = [
        jnp.any((a != b).reshape(3, -1), axis=1)
        for a, b in zip(
            jax.tree.leaves(after.pool.networks), jax.tree.leaves(start.pool.networks), strict=True
        )
    ]
    for leaf in changed:
        assert list(leaf) == [False, False, True]


def test_the_drawn_network_is_trained_on_the_new_coreset(x64, distance):
    (recipe, training), start = prepare(method="frepo", pool_rate=1e-3)
    after, _ = meta_step((recipe, training), copy(start), draw(0, steps=2))
    network = take(start.pool, jnp.asarray(1)).network
    adam = optax.adam(1e-3)
    state = adam.init(network)
    for _ in range(2):
        gradient = jax.grad(
            lambda net: (
                0.5
                * jnp.mean(jnp.sum((net(after.coreset.images) - after.coreset.labels) ** 2, axis=1))
            )
        )(network)
        updates, state = adam.update(gradient, state)
        network = optax.apply_updates(network, updates)
    assert distance(take(after.pool, jnp.asarray(1)).network, network) < 1e-9
    assert distance(take(start.pool, jnp.asarray(1)).network, network) > 1e-4


def test_a_network_is_renewed_at_its_age_with_the_key_of_the_draw(x64, distance):
    fixed, start = prepare(method="frepo", pool_max_steps=3)
    young, _ = meta_step(fixed, copy(start), draw(0, steps=2))
    assert list(young.pool.ages) == [0, 2, 0]
    renewed, _ = meta_step(fixed, copy(young), draw(1, steps=1))
    assert list(renewed.pool.ages) == [0, 0, 0]
    fresh = fixed[0].make_network(jax.random.key(1))
    member = take(renewed.pool, jnp.asarray(1))
    assert distance(member.network, fresh) < 1e-6  # made in float32
    assert float(optax.tree.norm(optax.tree.cast(member.optimiser, jnp.float64))) == 0


def test_clipping_is_leaf_by_leaf_to_the_norm_of_the_direct_gradient(x64):
    (recipe, training), start = prepare(method="rcig")
    result = gradient_of((recipe, training), start, draw(0))
    # The implicit gradient of the images made too long, that of the labels short enough.
    for name, factor in (("images", 3.0), ("labels", 0.5)):
        implicit, direct = getattr(result.implicit, name), getattr(result.direct, name)
        length = factor * jnp.linalg.norm(direct) / jnp.linalg.norm(implicit)
        result = eqx.tree_at(lambda r: getattr(r.implicit, name), result, length * implicit)  # noqa: B023
    targets = jnp.eye(CLASSES)[training.labels[draw(0).rows]]
    for clip, factor in ((True, 1 / 3), (False, 1.0)):
        # Plain gradient descent shows the gradient that the coreset moves by.
        plain = replace(recipe, optimiser=optax.sgd(1.0), clip_implicit=clip)
        state = eqx.tree_at(lambda s: s.optimiser, start, plain.optimiser.init(start.coreset))  # noqa: B023
        after = _update(plain, state, result, targets)[0]
        moved = optax.tree.sub(start.coreset, after)
        direct, implicit = result.direct, result.implicit
        for found, expected in (
            (moved.images, direct.images + factor * implicit.images),
            (moved.labels, direct.labels + implicit.labels),
            (moved.log_temperature, direct.log_temperature + implicit.log_temperature),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_the_moving_average_is_corrected_for_its_bias(x64, distance):
    fixed, state = prepare(method="frepo")
    assert jnp.array_equal(state.averaged.images, state.coreset.images)
    iterates = []
    for i in range(4):
        state, _ = meta_step(fixed, copy(state), draw(i))
        iterates.append(np.asarray(state.coreset.images))
        weights = 0.9 ** np.arange(i, -1, -1.0)
        expected = np.tensordot(weights / weights.sum(), np.stack(iterates), axes=1)
        np.testing.assert_allclose(state.averaged.images, expected, rtol=1e-9)
    assert distance(state.averaged, state.coreset) > 1e-4


def test_images_and_labels_have_one_rate_and_the_temperature_its_own(x64):
    fixed, start = prepare(method="rcig")
    gradient = gradient_of(fixed, start, draw(0)).grad  # its direct part is not clipped away
    after, _ = meta_step(fixed, copy(start), draw(0))
    for name, rate in (("images", 1e-2), ("labels", 1e-2), ("log_temperature", 1e-1)):
        moved = getattr(after.coreset, name) - getattr(start.coreset, name)
        # AdaBelief's first step has the size g / |g - m| = 1/0.9 where |g| is far from epsilon.
        size = float(jnp.max(jnp.abs(moved)))
        assert rate < size < 1.2 * rate, name
    assert jnp.sign(after.coreset.log_temperature) == -jnp.sign(gradient.log_temperature)


@pytest.mark.parametrize(
    ("method", "solve", "has_rates"),
    [("rcig", "linear", False), ("cig", "linear", False), ("frepo", "adam", False),
     ("rcig", "adam", True), ("vig", "linear", True), ("rig", "linear", True)],
)  # fmt: skip
def test_adams_rates_matter_where_adam_solves(x64, method, solve, has_rates):
    fixed, start = prepare(method=method, solve=solve)
    assert fixed[0].has_rates is has_rates
    other = eqx.tree_at(lambda s: s.rates.inner, start, jnp.asarray(3e-3))
    one = gradient_of(fixed, start, draw(0)).grad.images
    two = gradient_of(fixed, other, draw(0)).grad.images
    assert bool(jnp.any(one != two)) is has_rates


def test_the_metrics_are_those_of_the_gradient(x64):
    fixed, start = prepare(method="rcig", solve="adam")
    result = gradient_of(fixed, start, draw(0))
    _, told = meta_step(fixed, copy(start), draw(0))
    assert float(told.loss) == pytest.approx(float(result.value), rel=1e-9)
    labels = np.asarray(fixed[1].labels)[np.asarray(draw(0).rows)]
    hits = np.asarray(result.predictions).argmax(axis=1) == labels
    assert float(told.accuracy) == pytest.approx(hits.mean())
    share = jnp.linalg.norm(result.implicit.images) / jnp.linalg.norm(result.grad.images)
    assert float(told["implicit_share"]) == pytest.approx(float(share), rel=1e-9)
    assert float(told["adjoint_steps"]) == 2
    for name, losses in (("inner", result.inner.losses), ("adjoint", result.adjoint.losses)):
        assert bool(told[f"{name}_descended"]) is bool(losses[-1] < losses[0])
        assert bool(told[f"{name}_monotone"]) is bool(np.all(np.diff(losses) <= 0))


def test_the_compiled_step_uses_its_state_up_without_a_complaint(x64, distance):
    from bilevel_distillation._engine._meta_step import compiled_meta_step

    fixed, start = prepare(method="frepo")
    expected, _ = meta_step(fixed, copy(start), draw(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = draw(0)
        compiled_meta_step.lower(fixed, copy(start), draws).compile()
        after, _ = compiled_meta_step(fixed, copy(start), draws)
    assert distance(after.coreset, expected.coreset) < 1e-6
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(draws))  # they can serve again


def test_the_coresets_rate_falls_by_a_cosine(x64):
    updates = {}
    for decay in (1.0, 0.1):
        (recipe, _), state = prepare(coreset_decay=decay, iterations=8)
        optimiser, held = recipe.optimiser, state.optimiser
        gradient = jax.tree.map(jnp.ones_like, state.coreset)
        updates[decay] = []
        for _ in range(9):
            update, held = optimiser.update(gradient, held, state.coreset)
            updates[decay].append(update)
    for i, (one, other) in enumerate(zip(updates[0.1], updates[1.0], strict=True)):
        share = 0.1 + 0.9 * (1 + np.cos(np.pi * i / 8)) / 2
        np.testing.assert_allclose(one.images, share * other.images, rtol=1e-5)
        np.testing.assert_allclose(one.log_temperature, other.log_temperature, rtol=1e-5)
