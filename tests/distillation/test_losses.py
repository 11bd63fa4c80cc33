"""Outer losses against their formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation._problem._losses import (
    label_margin,
    platt_loss,
    shares,
    soft_cross_entropy,
    squared_error,
)


@pytest.fixture
def outputs(x64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 4)), np.eye(4)[[0, 1, 2, 3, 1, 0]]


def test_platt_loss_is_the_cross_entropy_of_predictions_over_tau(outputs):
    predictions, targets = outputs
    for log_temperature in (-1.5, 0.0, 0.7):
        tau = np.exp(-log_temperature)
        shares = np.exp(predictions / tau)
        shares /= shares.sum(axis=1, keepdims=True)
        expected = -np.mean(np.log(shares[targets == 1]))
        found = platt_loss(
            jnp.asarray(predictions), jnp.asarray(targets), jnp.asarray(log_temperature)
        )
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_platt_loss_of_huge_predictions_is_finite():
    predictions = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    assert float(platt_loss(predictions, jnp.eye(2), jnp.asarray(0.0))) == 0
    assert float(platt_loss(predictions, jnp.eye(2)[::-1], jnp.asarray(0.0))) == 1e4


def test_squared_error_is_half_the_squared_distance(outputs):
    predictions, targets = outputs
    expected = 0.5 * np.mean(np.linalg.norm(predictions - targets, axis=1) ** 2)
    found = squared_error(jnp.asarray(predictions), jnp.asarray(targets))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_label_margin_is_the_mean_of_clipped_gaps(x64):
    # Gaps between the top two labels: 0.3, 0.05, 0 and 0.1; clipped at 1/(2 * 4) = 0.125.
    labels = jnp.array(
        [[0.5, 0.2, -0.3, 0.1], [0.0, 0.1, 0.15, -2.0], [1.0, 0.0, 1.0, 0.0], [-1.0, -0.9, -3, -4]]
    )
    assert float(label_margin(labels)) == pytest.approx((0.125 + 0.05 + 0 + 0.1) / 4, rel=1e-12)


def test_soft_labels_become_shares_of_one(outputs):
    predictions, targets = outputs
    for centred in (targets - 0.25, targets):
        np.testing.assert_allclose(shares(jnp.asarray(centred)), targets, atol=1e-12)
    soft = np.array([[0.5, 0.3, -0.2, -0.6]])
    np.testing.assert_allclose(
        shares(jnp.asarray(soft)), [[0.75, 0.55, 0.05, 0]] / np.float64(1.35)
    )
    found = soft_cross_entropy(jnp.asarray(predictions), jnp.asarray(targets - 0.25))
    expected = -np.mean(np.log(np.exp(predictions[targets == 1]) / np.exp(predictions).sum(1)))
    assert float(found) == pytest.approx(expected, rel=1e-12)
