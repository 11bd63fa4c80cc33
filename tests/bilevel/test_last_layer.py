"""The ridge head against dense NumPy; the reduced loss against the full problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import reparameterize_last_layer, ridge_head

RIDGE = 0.3


def data(rows, width, outputs=2, dtype=np.float64):
    rng = np.random.default_rng(rows * 100 + width)
    return (jnp.asarray(rng.normal(size=s).astype(dtype)) for s in ((rows, width), (rows, outputs)))


@pytest.mark.parametrize("rows, width", [(4, 7), (7, 4), (5, 5)])
def test_kernel_feature_and_numpy_agree(rows, width, x64):
    features, targets = data(rows, width)
    f, y = np.asarray(features), np.asarray(targets)
    weight = np.linalg.solve(f.T @ f + RIDGE * np.eye(width), f.T @ y)
    objective = 0.5 * np.sum((f @ weight - y) ** 2) + 0.5 * RIDGE * np.sum(weight**2)
    for form in ("kernel", "feature", "auto"):
        for ridge in (RIDGE, jnp.asarray(RIDGE)):
            head = ridge_head(features, targets, ridge, form=form)
            np.testing.assert_allclose(head.weight, weight, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(head.objective(), objective, rtol=1e-12)
            np.testing.assert_allclose(head(features[:2]), f[:2] @ weight, rtol=1e-10)


@pytest.mark.parametrize("rows, width, size", [(3, 9, 3), (9, 3, 3)])
def test_auto_takes_the_smaller_system(rows, width, size, x64):
    features, targets = data(rows, width)
    jaxpr = str(jax.make_jaxpr(lambda f, y: ridge_head(f, y, RIDGE).weight)(features, targets))
    assert f"f64[{size},{size}] = cholesky" in jaxpr


@pytest.mark.parametrize("form", ["kernel", "feature"])
def test_gradients_equal_finite_differences(form, x64):
    features, targets = data(5, 4)
    point, unravel = ravel_pytree((features, targets, jnp.asarray(RIDGE)))

    @jax.jit
    def loss(point):
        head = ridge_head(*unravel(point), form=form)
        return head.objective() + jnp.sum(jnp.sin(head(features)))

    direction = jnp.cos(jnp.arange(1.0, point.size + 1))
    numeric = (loss(point + 1e-6 * direction) - loss(point - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jax.grad(loss)(point) @ direction, numeric, rtol=1e-7)


def test_solved_in_float64_where_float32_is_too_coarse(x64):
    features, targets = data(6, 8, dtype=np.float32)
    features = features.at[1].set(features[0] * jnp.float32(1.0001))  # nearly dependent rows
    f, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    exact = f.T @ np.linalg.solve(f @ f.T + 1e-6 * np.eye(6), y)

    def error(dtype):
        head = ridge_head(features, targets, 1e-6, form="kernel", dtype=dtype)
        assert head.weight.dtype == jnp.float32
        return np.linalg.norm(np.asarray(head.weight) - exact) / np.linalg.norm(exact)

    assert error(jnp.float64) < 1e-6
    assert not error(None) < 1e-4  # NaN counts


def test_jit_vmap(x64):
    features, targets = data(4, 3)
    stacked = jnp.stack([features, 2 * features])
    weights = jax.jit(jax.vmap(lambda f: ridge_head(f, targets, RIDGE).weight))(stacked)
    expected = ridge_head(2 * features, targets, RIDGE).weight
    np.testing.assert_allclose(weights[1], expected, rtol=1e-12)


class TestReparameterized:
    """The reduced loss of a small nonlinear network against the full problem in (body, head)."""

    @pytest.fixture
    def losses(self, x64):
        rng = np.random.default_rng(0)
        x, y = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=(6, 2)))
        body = jnp.asarray(rng.normal(size=(2, 3)))

        def features(body):
            return jnp.tanh(x @ body.reshape(2, 3))

        def full(body, weight):
            error = features(body) @ weight.reshape(3, 2) - y
            return 0.5 * jnp.sum(error**2) + 0.5 * RIDGE * jnp.sum(weight**2)

        def reduced(body):
            loss = reparameterize_last_layer(
                lambda body, head, psi: head.objective(),
                lambda body, psi: (features(body), psi),
                RIDGE,
            )
            return loss(body, y)

        best = ridge_head(features(body), y, RIDGE).weight.ravel()
        return full, reduced, body.ravel(), best

    def test_value_and_gradient(self, losses):
        """Envelope theorem: the gradient is that of the full problem at the best head."""
        full, reduced, body, head = losses
        np.testing.assert_allclose(reduced(body), full(body, head), rtol=1e-12)
        np.testing.assert_allclose(jax.grad(full, argnums=1)(body, head), 0, atol=1e-12)
        np.testing.assert_allclose(
            jax.jit(jax.grad(reduced))(body), jax.grad(full)(body, head), rtol=1e-9, atol=1e-12
        )

    def test_hessian_is_the_schur_complement(self, losses):
        full, reduced, body, head = losses
        hessian = jax.jit(jax.hessian(lambda both: full(both[:6], both[6:])))(
            jnp.concatenate([body, head])
        )
        bb, bh, hh = hessian[:6, :6], hessian[:6, 6:], hessian[6:, 6:]
        schur = bb - bh @ jnp.linalg.solve(hh, bh.T)
        np.testing.assert_allclose(
            jax.jit(jax.hessian(reduced))(body), schur, rtol=1e-8, atol=1e-10
        )
        assert jnp.linalg.norm(schur - bb) > 0.1 * jnp.linalg.norm(bb)


def test_the_loss_may_return_anything(x64):
    reduced = reparameterize_last_layer(
        lambda body, head, psi, shift: {"weight": head.weight + shift, "ridge": head.ridge},
        lambda body, psi, shift: (body, psi),
        RIDGE,
        form="feature",
    )
    features, targets = data(5, 3)
    out = reduced(features, targets, jnp.asarray(1.0))
    expected = ridge_head(features, targets, RIDGE).weight + 1
    np.testing.assert_allclose(out["weight"], expected, rtol=1e-12)


@pytest.mark.parametrize("ridge", [0, -1.0, float("nan"), np.float32(0)])
def test_a_ridge_that_is_not_positive(ridge, unchecked):
    with pytest.raises(ValueError, match=f"ridge={ridge} is not positive: give a number above 0"):
        ridge_head(jnp.ones((2, 2)), jnp.ones((2, 1)), ridge)


def test_bad_input(unchecked):
    with pytest.raises(ValueError, match=r"features of shape \(2, 2\) and targets of shape \(3,"):
        ridge_head(jnp.ones((2, 2)), jnp.ones((3, 1)), 1.0)
    with pytest.raises(ValueError, match="form='dual' is not known: choose"):
        ridge_head(jnp.ones((2, 2)), jnp.ones((2, 1)), 1.0, form="dual")
    with pytest.raises(ValueError, match="dtype=float64 needs 64-bit.*jax_enable_x64"):
        ridge_head(jnp.ones((2, 2)), jnp.ones((2, 1)), 1.0, dtype="float64")
