"""Networks trained from scratch: the schedule, the batches, and what they learn."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_distillation import DistilledSet, EvaluationConfig, RunConfig, augment, judge, resolve
from bilevel_distillation._judging import _evaluation, _judge
from bilevel_distillation._judging._evaluation import accuracy, evaluate, schedule, train_network
from bilevel_distillation._judging._judge import Held
from bilevel_distillation._problem._losses import squared_error
from bilevel_distillation.data import Preprocessor, load
from bilevel_distillation.networks import ConvNet

SHORT = EvaluationConfig(repeats=2, steps=3, learning_rate=1e-2, warmup=1)


def make_network(key):
    return ConvNet((8, 8, 1), 10, width=4, depth=2, key=key)


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    preprocess = Preprocessor.fit(data.train_images, zca=False)
    train, labels = preprocess(data.train_images), data.train_labels
    means = np.stack([train[labels == digit].mean(0) for digit in range(10)])
    return (
        jnp.asarray(means),
        jnp.eye(10) - 0.1,
        jnp.asarray(preprocess(data.test_images)),
        jnp.asarray(data.test_labels),
    )


def test_the_rate_warms_up_linearly_and_falls_to_one_percent_as_a_cosine():
    rate = schedule(2e-3, warmup=500, steps=2000)
    assert float(rate(0)) == 0
    assert float(rate(125)) == pytest.approx(0.25 * 2e-3)
    assert float(rate(500)) == pytest.approx(2e-3)
    assert float(rate(1250)) == pytest.approx(2e-3 * (0.01 + 0.99 * 0.5), rel=1e-5)
    assert float(rate(2000)) == pytest.approx(2e-5, rel=1e-5)


def test_warm_up_takes_at_most_half_of_the_steps():
    rate = schedule(1.0, warmup=500, steps=100)
    assert int(np.argmax([float(rate(step)) for step in range(101)])) == 50


def test_accuracy_in_batches_equals_all_at_once(digits):
    _, _, images, labels = digits
    network = make_network(jax.random.key(0))
    images, labels = images[:103], labels[:103]
    expected = np.mean(np.asarray(network(images)).argmax(axis=1) == np.asarray(labels))
    for batch_size in (1000, 103, 50, 10):
        found = accuracy(network, images, labels, batch_size=batch_size)
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_training_takes_adam_steps_on_the_squared_error(digits):
    images, labels, _, _ = digits
    key = jax.random.key(3)
    found = train_network(images, labels, make_network, SHORT, key)
    network = make_network(jax.random.split(key)[0])
    optimiser = optax.adam(schedule(1e-2, 1, 3))
    state = optimiser.init(network)
    gradient = jax.jit(jax.grad(lambda net: squared_error(net(images), labels)))
    for _ in range(3):
        updates, state = optimiser.update(gradient(network), state)
        network = optax.apply_updates(network, updates)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(network), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_networks_trained_on_class_means_beat_chance(digits):
    config = replace(SHORT, steps=200, learning_rate=3e-3, warmup=20)
    told = []
    found = evaluate(*digits, make_network, config, jax.random.key(0), told.append)
    assert len(found) == 2 and found[0] != found[1] and told == found
    assert all(value > 0.5 for value in found), found


def test_the_same_key_gives_the_same_networks(digits):
    run = partial(evaluate, *digits, make_network, SHORT)
    assert run(jax.random.key(1)) == run(jax.random.key(1)) != run(jax.random.key(2))


def test_larger_sets_are_trained_on_in_random_batches(digits):
    images, labels, _, _ = digits
    bright = replace(SHORT, steps=1, warmup=0, batch_size=4)
    train = partial(train_network, images, labels, make_network)
    key = jax.random.key(5)
    rows = jax.random.choice(
        jax.random.fold_in(jax.random.split(key)[1], 0), 10, (4,), replace=False
    )
    found = train(bright, key)
    expected = train_network(images[rows], labels[rows], make_network, bright, key)
    whole = train(replace(bright, batch_size=10), key)
    leaves = [jax.tree.leaves(net)[0] for net in (found, expected, whole)]
    np.testing.assert_allclose(leaves[0], leaves[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(leaves[0], leaves[2], rtol=1e-3)


def test_open_settings_are_said(digits):
    for config, name in (
        (EvaluationConfig(), "steps"),
        (EvaluationConfig(steps=1), "learning_rate"),
    ):
        with pytest.raises(ValueError, match=f"evaluation.{name} is None: give a number"):
            train_network(*digits[:2], make_network, config, jax.random.key(0))


def test_the_rate_is_by_the_network_and_what_is_given_stays():
    for network, given, rate in [
        ("convnet", None, 1e-4), ("resnet18", None, 3e-4), ("resnet18", 1e-3, 1e-3),
    ]:  # fmt: skip
        asked = RunConfig(evaluation=EvaluationConfig(network=network, learning_rate=given))
        assert resolve(asked, (8, 8, 1)).evaluation.learning_rate == rate


def test_batch_normalisation_predicts_by_the_statistics_of_the_training_images(digits):
    images, labels, test_images, test_labels = digits

    def with_batch_norm(key):
        return ConvNet((8, 8, 1), 10, width=4, depth=2, norm="batch", key=key)

    network = train_network(images, labels, with_batch_norm, SHORT, jax.random.key(0))
    assert all(norm.inference is True for norm in network.norms)
    inner = np.asarray(network.layers[0](images))
    np.testing.assert_allclose(network.norms[0].mean, inner.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network.norms[0].variance, inner.var((0, 1, 2)), rtol=1e-4)
    some = test_images[:60], test_labels[:60]
    assert float(accuracy(network, *some, batch_size=7)) == float(accuracy(network, *some))


def test_augmented_training_is_training_on_augmented_images(digits):
    images, labels, _, _ = digits
    once = replace(SHORT, steps=1, warmup=0)
    key = jax.random.key(5)
    found = train_network(images, labels, make_network, replace(once, augment=True), key)
    step_key = jax.random.fold_in(jax.random.fold_in(jax.random.split(key)[1], 0), 1)
    changed = augment(images, step_key)
    expected = train_network(changed, labels, make_network, once, key)
    plain = train_network(images, labels, make_network, once, key)
    leaves = [np.asarray(net.layers[0].weight) for net in (found, expected, plain)]
    np.testing.assert_allclose(leaves[0], leaves[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(leaves[0], leaves[2], rtol=1e-3)


@pytest.fixture
def given(digits, monkeypatch):
    """A distilled set, the held-out images, and what `judge` has networks trained with."""
    images, labels, test_images, test_labels = digits
    rng = np.random.default_rng(0)
    soft = np.asarray(labels) + rng.normal(size=labels.shape)
    data = load("digits")
    distilled = DistilledSet(
        np.asarray(images), soft, soft.argmax(1), data.class_names,
        Preprocessor.fit(data.train_images, zca=False),
    )  # fmt: skip
    calls = []
    monkeypatch.setattr(_judge, "evaluate", lambda *a: calls.append(a) or [0.5])
    return distilled, Held(test_images, test_labels), calls


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_labels_are_as_they_are_or_one_hot_at_the_largest(given, labels):
    distilled, held, calls = given
    config = resolve(RunConfig(evaluation=EvaluationConfig(labels=labels)), (8, 8, 1))
    assert judge(config, held, distilled) == [0.5]
    hard = np.eye(10)[distilled.labels.argmax(1)] - 0.1
    expected = distilled.labels if labels == "soft" else hard
    np.testing.assert_allclose(calls[0][1], expected, rtol=1e-6)


def test_networks_that_judge_are_those_asked_for(given):
    distilled, held, calls = given
    for evaluation, what in [
        (EvaluationConfig(), ("ConvNet", 5, "GroupNorm")),
        (EvaluationConfig(norm="none", width=3), ("ConvNet", 3, "Identity")),
        (EvaluationConfig(network="alexnet", norm="batch"), ("AlexNet", 128, "BatchNorm")),
        (EvaluationConfig(network="vgg11", norm="none", width=2), ("VGG11", 2, "Identity")),
    ]:
        config = RunConfig(width=5, norm="layer", evaluation=evaluation)
        judge(resolve(config, (8, 8, 1)), held, distilled)
        network = eqx.filter_eval_shape(calls[-1][4], jax.random.key(0))
        first = network.layers[0]
        norm = network.norms[0] if type(network) is ConvNet else first.norm
        weight = first.weight if type(network) is ConvNet else first.convolution.weight
        assert (type(network).__name__, weight.shape[-1], type(norm).__name__) == what
    judge(resolve(RunConfig(), (8, 8, 1)), held, distilled, make_network=make_network)
    assert calls[-1][4] is make_network


def test_selection_keeps_the_first_best_moment_on_watched_images(digits, monkeypatch):
    """Held-out accuracies are made to rise and fall: what is kept is the network of their peak."""
    images, labels, watched, classes = digits
    config = replace(SHORT, steps=20, select=True)
    seen, found = [], iter([0.1, 0.4, 0.9, 0.9, 0.2, 0.3, 0.8, 0.1, 0.0, 0.5])

    def told(network, *rows):
        seen.append(network)
        return jnp.asarray(next(found))

    monkeypatch.setattr(_evaluation, "accuracy", told)
    key = jax.random.key(0)
    kept = train_network(images, labels, make_network, config, key, (watched, classes))
    assert len(seen) == 10
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(seen[2]), strict=True):
        assert np.array_equal(a, b)
    monkeypatch.undo()
    last = train_network(images, labels, make_network, replace(config, select=False), key)
    assert np.array_equal(last.head.weight, seen[-1].head.weight)
    assert not np.array_equal(kept.head.weight, last.head.weight)


def test_selection_asks_test_images_once_for_each_network(digits, monkeypatch):
    images, labels, test, classes = digits
    asked, noted = [], []
    plain = _evaluation.accuracy
    monkeypatch.setattr(
        _evaluation, "accuracy", lambda net, x, y: asked.append(len(x)) or plain(net, x, y)
    )
    config = replace(SHORT, steps=10, select=True)
    watched = (test[:7], classes[:7])
    found = evaluate(images, labels, test, classes, make_network, config, jax.random.key(0),
                     watched=watched, noted=noted.append)  # fmt: skip
    assert asked.count(len(test)) == len(found) == len(noted) == 2 and set(asked) == {7, len(test)}
    with pytest.raises(ValueError, match="select=True needs held-out training images"):
        evaluate(images, labels, test, classes, make_network, config, jax.random.key(0))


def test_training_by_descent_takes_the_steps_of_its_recipe(digits):
    images, labels, *_ = digits
    config = replace(SHORT, steps=4, learning_rate=0.1, optimiser="sgd", loss="cross-entropy")
    key = jax.random.key(0)
    found = train_network(images, labels, make_network, config, key)
    network = make_network(jax.random.split(key)[0])
    weights, rest = eqx.partition(network, eqx.is_inexact_array)
    momentum = jax.tree.map(jnp.zeros_like, weights)

    def loss(weights):
        logits = jax.nn.log_softmax(eqx.combine(weights, rest)(images))
        return -jnp.mean(jnp.sum((labels + 0.1) * logits, 1))

    for rate in (0.1, 0.1, 0.01, 0.01):
        grad = jax.tree.map(lambda g, w: g + 5e-4 * w, jax.grad(loss)(weights), weights)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grad)
        weights = jax.tree.map(lambda w, m, rate=rate: w - rate * m, weights, momentum)
    np.testing.assert_allclose(found.head.weight, weights.head.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "widths"), [("paper", [4, 8]), ("wide-instance", [4, 4])])
def test_the_judges_of_the_literature(name, widths, given):
    distilled, held, calls = given
    config = RunConfig(norm="layer", width=7, depth=2, evaluation=EvaluationConfig(judge=name))
    resolved = resolve(config, (8, 8, 1)).evaluation
    assert resolved.width == 128 and resolved.norm == ("none" if name == "paper" else "instance")
    narrow = replace(config, evaluation=EvaluationConfig(judge=name, width=4))
    judge(resolve(narrow, (8, 8, 1)), held, distilled)
    network = eqx.filter_eval_shape(calls[-1][4], jax.random.key(0))
    assert [layer.weight.shape[-1] for layer in network.layers] == widths
    assert type(network.norms[0]).__name__ == ("Identity" if name == "paper" else "GroupNorm")
    again = resolve(resolve(narrow, (8, 8, 1)), (8, 8, 1))  # as a run that goes on reads it
    assert again.evaluation == resolve(narrow, (8, 8, 1)).evaluation
