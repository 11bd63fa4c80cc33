"""Inverse Hessians against the dense solve; and that no wrong answer is called a success."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import Result
from bilevel.inverse_hvp import CG, SGD, AbstractInverseHVP, Dense, Iterate

METHODS = {
    "cg": CG(),
    "sgd": SGD(optax.sgd(0.4), 300),
    "adam": SGD(optax.adam(0.05), 1500),
    "dense": Dense(),
}
DIRECT = {"cg": CG(), "dense": Dense()}


def positive_definite(size=6, seed=0):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return jnp.asarray(root @ root.T / size + np.eye(size))


def times(matrix):
    return lambda v: matrix @ v


@pytest.mark.parametrize("method", METHODS)
def test_equals_the_dense_solve(method, x64, close):
    matrix = positive_definite()
    g = jnp.asarray(np.random.default_rng(1).normal(size=6))
    adjoint = METHODS[method](times(matrix), g)
    close(adjoint.v, jnp.linalg.solve(matrix, g), 1e-6 if method == "adam" else 1e-9)
    np.testing.assert_allclose(
        adjoint.residual, jnp.linalg.norm(g - matrix @ adjoint.v) / jnp.linalg.norm(g), atol=1e-12
    )
    assert adjoint.result == Result.successful and adjoint.steps > 0


@pytest.mark.parametrize("method", METHODS)
def test_damping(method, x64, close):
    matrix, g = positive_definite(), jnp.arange(1.0, 7.0)
    damped = METHODS[method].__class__  # the same settings, with damping
    settings = {
        "cg": {},
        "sgd": {"transformation": optax.sgd(0.3), "steps": 300},
        "adam": {"transformation": optax.adam(0.05), "steps": 1500},
        "dense": {},
    }[method]
    expected = jnp.linalg.solve(matrix + 0.5 * jnp.eye(6), g)
    for damping in (0.5, jnp.asarray(0.5)):
        adjoint = damped(**settings, damping=damping)(times(matrix), g)
        close(adjoint.v, expected, 1e-6 if method == "adam" else 1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e-13, 1.0, 1e13, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_right_hand_sides_of_any_size_in_float32(method, size, close):
    matrix = positive_definite().astype(jnp.float32)
    g = jnp.arange(1.0, 7.0)
    reference = METHODS[method](times(matrix), g)
    adjoint = METHODS[method](times(matrix), jnp.float32(size) * g)
    assert adjoint.result == Result.successful and adjoint.residual < 1e-4
    close(adjoint.v / jnp.float32(size), reference.v, 1e-4)


def test_a_right_hand_side_near_the_largest_float():
    adjoint = CG()(lambda v: v, jnp.full(2, 3e38))  # its norm is infinite in float32
    assert adjoint.result == Result.nonfinite


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("warm", [False, True])
def test_zero_gives_zero(method, warm):
    v0 = jnp.ones(6) if warm else None
    adjoint = METHODS[method](times(positive_definite().astype(jnp.float32)), jnp.zeros(6), v0=v0)
    np.testing.assert_array_equal(adjoint.v, jnp.zeros(6))
    assert adjoint.result == Result.successful and adjoint.residual == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["g", "hessian"])
@pytest.mark.parametrize("what", [jnp.nan, jnp.inf])
def test_nan_and_infinity_are_reported(method, where, what):
    matrix, g = positive_definite().astype(jnp.float32), jnp.ones(6)
    if where == "g":
        g = g.at[2].set(what)
    else:
        matrix = matrix.at[1, 2].set(what)
    assert METHODS[method](times(matrix), g).result == Result.nonfinite


def test_an_indefinite_hessian():
    saddle, g = jnp.diag(jnp.array([1.0, -2.0, 3.0])), jnp.array([1.0, 1.0, 1.0])
    assert CG()(times(saddle), g).result == Result.indefinite
    dense = Dense()(times(saddle), g)
    assert dense.result == Result.successful
    np.testing.assert_allclose(dense.v, [1, -0.5, 1 / 3], rtol=1e-6)
    descent = SGD(optax.sgd(0.3), 50)(times(saddle), g)
    assert descent.result == Result.diverged


def test_a_singular_hessian():
    # The last of the three directions is flat, and g has a part along it: there is no solution.
    flat, g = jnp.diag(jnp.array([1.0, 2.0, 0.0])), jnp.array([1.0, 1.0, 1.0])
    assert Dense()(times(flat), g).result == Result.singular
    assert CG()(times(flat), g).result != Result.successful
    nearly = jnp.diag(jnp.array([1.0, 2.0, 1e-9]))
    assert Dense()(times(nearly), g).result == Result.singular
    vectors = jnp.linalg.qr(jnp.sin(jnp.arange(1.0, 37.0) ** 2).reshape(6, 6))[0]
    ill = (vectors * jnp.array([[1, 1, 1, 1, 1, 3e-6]])) @ vectors.T  # its pivots look harmless
    assert Dense()(times(ill), vectors[:, -1]).result == Result.singular
    assert Dense(damping=0.1)(times(flat), g).result == Result.successful


def test_no_method_calls_a_wrong_answer_a_success(x64):
    """Random Hessians of every kind: where the result is clean, v is the solution."""
    rng = np.random.default_rng(3)
    seen = set()
    methods = {
        "cg": (CG(max_steps=40), 1e-6),
        "dense": (Dense(), 1e-6),
        "sgd": (SGD(optax.sgd(0.9), 40, rtol=1e-3), 0.01),
    }
    run = {
        name: (jax.jit(lambda h, g, method=method: method(times(h), g)), tolerance)
        for name, (method, tolerance) in methods.items()
    }
    for kind in range(30):
        vectors = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        values = 10.0 ** rng.uniform(-8, 2, size=5) * rng.choice([1, 1, 1, -1, 0], size=5)
        if kind % 3 == 0:
            values = np.abs(values) + 0.5
        matrix = jnp.asarray(vectors @ np.diag(values) @ vectors.T)
        g = jnp.asarray(10.0 ** rng.uniform(-20, 5) * rng.normal(size=5))
        for name, (method, tolerance) in run.items():
            adjoint = method(matrix, g)
            clean = bool(adjoint.result == Result.successful)
            seen.add((name, clean))
            if clean:
                assert jnp.linalg.norm(matrix @ adjoint.v - g) < tolerance * jnp.linalg.norm(g)
    assert len(seen) == 6  # each method met problems that it can solve and that it cannot


def test_descent_that_gets_nowhere_says_so():
    """The silent failure of the field: v = 0 comes back, and the gradient is silently zero."""
    hessian, g = jnp.diag(jnp.array([1.0, 50.0])), jnp.ones(2)
    for transformation in (optax.sgd(0.1), optax.sgd(1e3), optax.sgd(1e-9)):
        adjoint = SGD(transformation, 20)(times(hessian), g)
        assert adjoint.result != Result.successful
        assert jnp.all(jnp.isfinite(adjoint.v))


def test_the_best_iterate_is_kept():
    hessian, g = jnp.diag(jnp.array([1.0, 50.0])), jnp.array([1.0, 1e-3])
    adjoint = SGD(optax.sgd(0.1), 20)(times(hessian), g)  # converges first, diverges later
    assert adjoint.losses[-1] > adjoint.losses[0]
    assert adjoint.residual < 0.8 and adjoint.result == Result.approximate
    residual = jnp.linalg.norm(g - hessian @ adjoint.v) / jnp.linalg.norm(g)
    np.testing.assert_allclose(adjoint.residual, residual, rtol=1e-5)
    # Far beyond float32: the steps end in NaN, and v does not.
    late = SGD(optax.sgd(0.1), 100)(times(hessian), g)
    assert late.result == Result.nonfinite
    np.testing.assert_array_equal(late.v, adjoint.v)


def test_cg_out_of_steps():
    hessian = jnp.diag(jnp.logspace(0, 1, 20))
    adjoint = CG(max_steps=3)(times(hessian), jnp.ones(20))
    assert adjoint.result == Result.max_steps_reached and adjoint.steps == 3
    assert 1e-5 < adjoint.residual < 1
    # It is also a failure to stop early because float32 has no more digits.
    precise = CG(rtol=1e-9, max_steps=500)(times(hessian), jnp.ones(20))
    assert precise.result == Result.max_steps_reached


def test_cg_cut_off_is_nearer_than_zero_though_its_residual_is_larger(x64):
    hessian = jnp.diag(jnp.logspace(0, 4, 40))
    g = 1 / jnp.arange(1.0, 41.0) ** 2
    exact = g / jnp.diag(hessian)

    def error(v):
        return float((v - exact) @ hessian @ (v - exact))

    errors, residuals = [error(jnp.zeros(40))], []
    for steps in (1, 2, 3, 5, 8):
        adjoint = CG(max_steps=steps)(times(hessian), g)
        assert adjoint.result == Result.max_steps_reached
        errors.append(error(adjoint.v))
        residuals.append(float(adjoint.residual))
    assert max(residuals) > 1 and all(np.diff(errors) < 0)


def test_warm_starts(x64, close):
    matrix, g = positive_definite(), jnp.arange(1.0, 7.0)
    exact = jnp.linalg.solve(matrix, g)
    cold = CG()(times(matrix), g)
    warm = CG()(times(matrix), g, v0=exact * (1 + 1e-6))
    close(warm.v, exact, 1e-9)
    assert warm.steps < cold.steps
    for bad in (jnp.full(6, 1e6), jnp.full(6, jnp.nan)):  # no better than none
        again = CG()(times(matrix), g, v0=bad)
        close(again.v, cold.v, 1e-12)
    descent = SGD(optax.sgd(0.4), 5)(times(matrix), g, v0=exact)
    close(descent.v, exact, 1e-12)


def test_fixed_steps_follow_equation_7(x64):
    """Plain descent on v.Hv/2 - g.v, written out: iterates, losses, and the scaling of g."""
    matrix, g = positive_definite(), jnp.arange(1.0, 7.0)
    unit, v, losses = g / jnp.linalg.norm(g), jnp.zeros(6), []
    for _ in range(7):
        losses.append(0.5 * v @ matrix @ v - unit @ v)
        v = v - 0.2 * (matrix @ v - unit)
    adjoint = SGD(optax.sgd(1.0), 7, scale=jnp.asarray(0.2))(times(matrix), g)
    np.testing.assert_allclose(adjoint.v, v * jnp.linalg.norm(g), rtol=1e-12)
    np.testing.assert_allclose(adjoint.losses, losses, rtol=1e-12, atol=1e-15)


def test_stochastic_products_get_fresh_keys(getkey):
    seen = []

    def hvp(v, key):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return v

    adjoint = SGD(optax.sgd(0.5), 6)(hvp, jnp.ones(3), key=getkey())
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 7  # six steps and the residual
    # What is random is never certain.
    assert adjoint.result == Result.approximate and adjoint.residual < 0.1


@pytest.mark.parametrize("method", DIRECT)
def test_jit_vmap(method, x64, close):
    matrices = jnp.stack([positive_definite(4, 0), positive_definite(4, 1)])
    gs = jnp.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1e-20]])
    solve = jax.jit(jax.vmap(lambda h, g: DIRECT[method](times(h), g)))
    adjoint = solve(matrices, gs)
    expected = jnp.linalg.solve(matrices, gs[..., None])[..., 0]
    close(adjoint.v[0], expected[0], 1e-9)
    close(adjoint.v[1], expected[1], 1e-9)


def test_pytrees_and_empty_leaves(x64, close):
    g = {"a": jnp.ones((2, 2)), "b": (jnp.ones(()), jnp.zeros((0, 3)), None)}
    for method in DIRECT.values():
        close(
            method(lambda v: jax.tree.map(lambda leaf: 2 * leaf, v), g).v["b"][0], jnp.asarray(0.5)
        )


class Exact(AbstractInverseHVP):
    """A user's own, in ten lines: the Hessian is known to be diagonal."""

    wrong: float = 1.0

    def solve(self, hvp, g, v0, key):
        diagonal = hvp(jax.tree.map(jnp.ones_like, g))
        v = jax.tree.map(lambda gi, d: self.wrong * gi / d, g, diagonal)
        return Iterate(v, jnp.asarray(1), Result.successful)


def test_a_method_of_ones_own():
    diagonal, g = jnp.array([1.0, 2.0, 4.0]), jnp.ones(3)
    adjoint = Exact(damping=1.0)(lambda v: diagonal * v, g)
    np.testing.assert_allclose(adjoint.v, 1 / (diagonal + 1), rtol=1e-6)
    assert adjoint.residual < 1e-6 and adjoint.result == Result.successful
    wrong = Exact(wrong=-1.0)(lambda v: diagonal * v, g)
    assert wrong.result == Result.diverged
    np.testing.assert_allclose(wrong.residual, 2, rtol=1e-6)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: CG(damping=-1.0), "damping=-1.0 is negative"),
        (lambda: CG(rtol=-1.0), "rtol=-1.0 is negative"),
        (lambda: CG(max_steps=0), "max_steps=0 leaves no step"),
        (lambda: CG(loop="for"), "loop='for' is not known: choose"),
        (lambda: SGD(optax.sgd(1.0), 0), "steps=0 leaves no step"),
        (lambda: Dense(max_size=3)(lambda v: v, jnp.ones(4)), "theta has 4 numbers.*max_size=3"),
    ],
)
def test_bad_settings(make, match, unchecked):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_method_that_returns_another_form():
    class Broken(AbstractInverseHVP):
        def solve(self, hvp, g, v0, key):
            return Iterate((g, g), jnp.asarray(1), Result.successful)

    with pytest.raises(ValueError, match="Broken.solve returned a v of structure"):
        Broken()(lambda v: v, jnp.ones(2))
