"""The other systems: each one's gradient is that of its own objective, in float64."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_distillation import (
    BPTT,
    DC,
    DM,
    DSA,
    KIP,
    METHODS,
    MTT,
    RFAD,
    Coreset,
    EvaluationConfig,
)
from bilevel_distillation.engine import Batch
from bilevel_distillation.networks import ConvNet, is_parameter, relu, smooth_relu

pytestmark = pytest.mark.usefixtures("x64")

CLASSES, SHAPE = 3, (4, 4, 1)


def make_network(key, activation=smooth_relu):
    return ConvNet(SHAPE, CLASSES, width=2, depth=1, activation=activation, key=key)


def by_class(count):
    return jnp.arange(count) // (count // CLASSES)


@pytest.fixture
def coreset():
    one, other = jax.random.split(jax.random.key(1))
    labels = jax.nn.one_hot(by_class(6), CLASSES) - 1 / CLASSES
    labels = labels + 0.1 * jax.random.normal(other, labels.shape)
    return Coreset(jax.random.normal(one, (6, *SHAPE)), labels, jnp.asarray(0.3))


@pytest.fixture
def batch():
    """Real images class by class, one network of the pool, two fresh ones."""
    images = jax.random.normal(jax.random.key(2), (9, *SHAPE))
    fresh = eqx.filter_vmap(make_network)(jax.random.split(jax.random.key(4), 2))
    return Batch(
        images, jax.nn.one_hot(by_class(9), CLASSES), make_network(jax.random.key(3)),
        key=jax.random.key(5), fresh=fresh,
    )  # fmt: skip


def assert_derivative(objective, gradient, coreset, step=1e-5):
    """Central differences along three random directions."""
    flat, unravel = ravel_pytree(coreset)
    slopes = ravel_pytree(gradient)[0]
    assert float(jnp.linalg.norm(slopes)) > 1e-8
    objective = jax.jit(objective)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=flat.size)
        direction /= np.linalg.norm(direction)
        ends = (objective(unravel(flat + sign * step * direction)) for sign in (1, -1))
        difference = (next(ends) - next(ends)) / (2 * step)
        slope = float(slopes @ direction)
        assert slope == pytest.approx(float(difference), rel=2e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("method", "flip"),
    [(DM(augmented=False), False), (DC(), True), (DSA(), False), (KIP(), True),
     (RFAD(networks=2), True)],
    ids=repr,
)  # fmt: skip
def test_the_gradient_is_that_of_the_objective(method, flip, coreset, batch):
    from bilevel_distillation.engine import Linear

    if isinstance(method, KIP):
        method = replace(method, solver=Linear("cholesky"))
    coreset = replace(coreset, flip=flip)
    found = method.gradient(coreset, batch)
    assert found.implicit is None
    if isinstance(method, DM | DC):  # which see the images alone
        assert not found.grad.labels.any() and not found.grad.log_temperature.any()
    assert float(found.value) == pytest.approx(float(method.objective(coreset, batch)), rel=1e-9)
    assert_derivative(lambda one: method.objective(one, batch), found.grad, coreset)


def test_dm_is_zero_where_the_images_are_the_same(coreset, batch):
    same = eqx.tree_at(lambda one: one.images, coreset, batch.images.reshape(3, 3, *SHAPE)[:, :2]
                       .reshape(6, *SHAPE))  # fmt: skip
    method = DM(augmented=False)
    other = eqx.tree_at(
        lambda b: (b.images, b.targets), batch, (same.images, jax.nn.one_hot(by_class(6), CLASSES))
    )
    assert float(method.objective(same, other)) == 0.0 < float(method.objective(same, batch))


def test_dc_counts_directions_not_lengths(coreset, batch):
    method = DC()
    real = method.of_real(batch)
    scaled = [3.0 * one for one in real]
    assert float(jnp.abs(jax.vmap(method.distance)(real, scaled)).max()) < 1e-12
    turned = [-one for one in real]
    outputs = sum(one.shape[-1] for one in real)
    live = [jnp.any(one != 0, axis=tuple(range(1, one.ndim - 1))).sum(-1) for one in real]
    expected = 2.0 * sum(live)
    np.testing.assert_allclose(jax.vmap(method.distance)(real, turned), expected, rtol=1e-12)
    assert max(np.asarray(sum(live))) <= outputs


def test_kip_is_the_regression_written_with_dense_matrices(coreset, batch):
    method, network = KIP(ridge_rate=0.05), batch.network
    body, rest = eqx.partition(network, method.moving(network))
    flat, unravel = ravel_pytree(body)

    def rows(images):
        outputs = lambda vector: eqx.combine(unravel(vector), rest)(images).ravel()  # noqa: E731
        return jax.jacrev(outputs)(flat), network.features(images)

    (j_s, h_s), (j_t, h_t) = rows(coreset.images), rows(batch.images)
    among = j_s @ j_s.T + jnp.kron(h_s @ h_s.T, jnp.eye(CLASSES))
    across = j_t @ j_s.T + jnp.kron(h_t @ h_s.T, jnp.eye(CLASSES))
    weights = jnp.linalg.solve(among + 0.05 * 6 * jnp.eye(18), coreset.labels.ravel())
    gaps = across @ weights - (batch.targets - 1 / CLASSES).ravel()
    expected = 0.5 * float(gaps @ gaps) / 9
    assert float(method.objective(coreset, batch)) == pytest.approx(expected, rel=1e-9)


def test_rfad_is_the_regression_with_the_mean_kernel(coreset, batch):
    method = RFAD(networks=2, ridge_rate=0.1)
    h_s, h_t = ([jnp.asarray(h) for h in eqx.filter_vmap(lambda net: net.features(x))(batch.fresh)]  # noqa: B023
                for x in (coreset.images, batch.images))  # fmt: skip
    among = sum(h @ h.T for h in h_s) / 2
    across = sum(t @ s.T for s, t in zip(h_s, h_t, strict=True)) / 2
    ridge = 0.1 * jnp.trace(among) / 6
    found = across @ jnp.linalg.solve(among + ridge * jnp.eye(6), coreset.labels)
    logits = found * jnp.exp(coreset.log_temperature)
    expected = jnp.mean(optax.losses.softmax_cross_entropy(logits, batch.targets))
    assert float(method.objective(coreset, batch)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("steps", "remat"), [(2, False), (6, True)])
def test_bptt_differentiates_its_window(steps, remat, coreset, batch):
    """Training until the window is that of the coreset as it is; from there on it follows it."""
    from bilevel_distillation._methods._bptt import _keys

    method = BPTT(inner_steps=steps, window=2, inner_rate=0.05, remat=remat, augmented=steps == 2)
    (value, _), grad = method.through_the_window(coreset, batch)
    keys, outer, start = _keys(batch.key, steps - 1)
    own = jax.random.split(keys, 4)[0]  # as `unrolled_grad` gives its solver one
    weights, rest = eqx.partition(batch.network, is_parameter(batch.network))
    adam = optax.adam(0.05)

    def go_on(state, coreset, first, count):
        weights, optimiser = state
        for i in range(first, first + count):
            key = jax.random.fold_in(own, i)
            gradient = jax.grad(lambda w: method.inner(w, coreset, rest, key=key))(weights)  # noqa: B023
            updates, optimiser = adam.update(gradient, optimiser)
            weights = optax.apply_updates(weights, updates)
        return weights, optimiser

    begun = go_on((weights, adam.init(weights)), coreset, 0, int(start))

    def objective(coreset):
        found = go_on(begun, coreset, int(start), 2)[0]
        return method.outer(found, coreset, rest, batch.images, batch.targets, outer)[0]

    assert int(start) > 0 or steps == 2
    assert float(value) == pytest.approx(float(objective(coreset)), rel=1e-9)
    assert_derivative(objective, grad, coreset)


def test_bptt_clips_at_twice_the_average_norm(coreset, batch):
    method = BPTT(inner_steps=2, window=2, augmented=False)
    start = method.begin(coreset)
    first = method.gradient(coreset, replace(batch, carried=start))
    norm = float(jnp.linalg.norm(first.grad.images))
    assert float(first.carried) == pytest.approx(norm) and float(first.measured["clipped_to"]) == 1
    small = jnp.asarray(norm / 10)
    clipped = method.gradient(coreset, replace(batch, carried=small))
    assert float(jnp.linalg.norm(clipped.grad.images)) == pytest.approx(norm / 5)
    assert float(clipped.carried) == pytest.approx(0.9 * norm / 10 + 0.1 * norm / 5)


def test_one_program_serves_every_window(coreset, batch):
    method, compiled = BPTT(inner_steps=9, window=2, augmented=False), []
    carried = method.begin(coreset)
    method.gradient(coreset, replace(batch, carried=carried))

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for i in range(6):
        method.gradient(coreset, replace(batch, carried=carried, key=jax.random.key(i)))
    assert compiled == []


@pytest.fixture
def prepared(batch):
    weights = ravel_pytree(eqx.filter(batch.network, is_parameter(batch.network)))[0]
    steps = 0.05 * jax.random.normal(jax.random.key(6), (2, 4, weights.size))
    return weights + jnp.cumsum(steps, 1)


def test_bptt_gets_past_a_dead_unit(coreset, batch):
    """Adam's root of the squares of its gradients, which are zero, has no derivative."""
    method = BPTT(inner_steps=4, window=3, inner_rate=0.05, augmented=False)
    dead = eqx.tree_at(
        lambda network: network.layers[0].bias, make_network(jax.random.key(3), relu),
        replace_fn=lambda bias: bias.at[0].set(-1e3),
    )  # fmt: skip
    _, grad = method.through_the_window(coreset, replace(batch, network=dead))
    assert np.isfinite(grad.images).all()
    assert np.abs(grad.images).max() > 0


@pytest.mark.parametrize("remat", [False, True])
def test_mtt_differentiates_where_training_leads(remat, coreset, batch, prepared):
    method = MTT(
        trajectories=2, start_epochs=1, match_epochs=2, inner_steps=2, remat=remat, augmented=False
    )
    batch = replace(batch, prepared=prepared, carried=jnp.log(0.2))
    value, (grad, to_rate) = method.through_training(coreset, batch)

    def objective(coreset, log_rate=batch.carried):

        keys, first, last = method.draw(batch.key, prepared)
        own = jax.random.split(keys, 4)[0]
        weights, rest = eqx.partition(batch.network, is_parameter(batch.network))
        weights = ravel_pytree(weights)[1](first)
        for i in range(2):
            key = jax.random.fold_in(own, i)
            gradient = jax.grad(method.inner)(weights, (coreset, log_rate), rest, key=key)
            weights = jax.tree.map(jnp.subtract, weights, gradient)
        gap = jnp.sum((ravel_pytree(weights)[0] - last) ** 2)
        return gap / jnp.sum((first - last) ** 2)

    assert float(value) == pytest.approx(float(objective(coreset)), rel=1e-9)
    assert_derivative(objective, grad, coreset)
    ends = [objective(coreset, batch.carried + step) for step in (1e-5, -1e-5)]
    assert float(to_rate) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-5)
    found = method.gradient(coreset, batch)
    moved = float(found.carried - batch.carried)
    assert moved == pytest.approx(-0.01 * np.clip(float(to_rate), -1, 1), rel=1e-6)


def test_a_window_longer_than_the_training_is_said():
    with pytest.raises(ValueError, match="window=60 is longer than inner_steps=50: give at most"):
        BPTT(inner_steps=50)


def test_the_recipes_of_their_authors_are_settings_of_a_judge():
    for name, kind in METHODS.items():
        recipe = kind.own_recipe(300)
        own = replace(EvaluationConfig(), **recipe)
        if name in ("dm", "dsa", "mtt", "dc"):
            assert own.optimiser == "sgd" and own.loss == "cross-entropy"
            assert own.steps == 2 * (300 if name == "dc" else 1000)  # batches of 256
            assert own.augment == (name != "dc") and own.learning_rate == 1e-2
        elif name == "bptt":
            assert own.learning_rate == 1e-3 and own.loss == "cross-entropy"
        else:
            assert own == EvaluationConfig()
