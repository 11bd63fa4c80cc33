"""RCIG's and CIG's meta-gradient by linear algebra, against the generic one and dense matrices."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import Result, hypergradient
from bilevel.inverse_hvp import Dense, KrylovSpace
from bilevel.solvers import Newton
from bilevel_distillation import make_method
from bilevel_distillation._output_space import (
    Jacobian,
    Kernel,
    Linear,
    Rows,
    System,
    linear_gradient,
)


def dense(method, problem):
    """By the toolkit alone: the Hessian of the inner loss materialised and factorised."""
    coreset, network, images, targets = problem
    compute = hypergradient(
        method.outer, method.inner, solver=Newton(Dense()), inverse_hvp=Dense(), has_aux=True
    )
    return jax.jit(compute)(
        coreset,
        method.start(network),
        outer_args=(network, images, targets),
        inner_args=(network,),
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", ["rcig", "cig"])
def test_every_way_equals_the_dense_solver(problem, name, flip, distance):
    problem = (replace(problem[0], flip=flip), *problem[1:])
    method = make_method(name)
    parts = make_method(name, microbatch=4)
    expected = dense(method, problem)
    for how, one in (
        (Linear("cholesky"), method),
        (Linear("cholesky"), parts),
        (Linear("cg", 1e-12, 200), method),
        (Linear("cg", 1e-12, 200), parts),
        (Linear("cg", 1e-12, 200, remat=True), parts),
    ):
        found = linear_gradient(how, one, *problem)
        assert float(found.value) == pytest.approx(float(expected.value), rel=1e-9)
        np.testing.assert_allclose(found.predictions, expected.aux, rtol=1e-7, atol=1e-9)
        assert distance(found.implicit, expected.implicit) < 1e-8
        if method.direct:
            assert distance(found.direct, expected.direct) < 1e-9
        else:
            assert found.direct is None
            assert float(jnp.max(jnp.abs(ravel_pytree(expected.direct)[0]))) == 0
        assert found.inner.result == Result.successful
        assert found.adjoint.result == Result.successful


def test_compiled_as_one_program_it_is_the_same(problem, distance):
    method = make_method("rcig", microbatch=4)
    expected = linear_gradient(Linear("cholesky"), method, *problem)
    for how in (Linear("cholesky"), Linear("cg", 1e-12, 200), Linear("cg", 1e-12, 200, remat=True)):
        found = eqx.filter_jit(linear_gradient)(how, method, *problem)
        assert distance(found.grad, expected.grad) < 1e-8


def test_compiled_for_an_accelerator_it_is_the_same(problem, monkeypatch, distance):
    expected = linear_gradient(Linear("cholesky"), make_method("rcig"), *problem)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    method = make_method("rcig", microbatch=4)
    for how in (Linear("cg", 1e-12, 200), Linear("cg", 1e-12, 200, remat=True)):
        found = eqx.filter_jit(linear_gradient)(how, method, *problem)
        assert distance(found.grad, expected.grad) < 1e-8


def test_few_steps_say_that_they_fell_short(problem):
    found = linear_gradient(Linear("cg", 1e-6, 4), make_method("rcig"), *problem)
    assert int(found.inner.steps) == 4
    assert found.inner.result == Result.max_steps_reached
    assert 1e-6 < float(found.inner.error) < 1


def test_the_gradient_of_a_subset_is_unbiased(problem, distance):
    method, some = (make_method("rcig", microbatch=2, n_subset=n) for n in (None, 2))
    whole = linear_gradient(Linear("cholesky"), method, *problem)
    total = jax.tree.map(jnp.zeros_like, whole.grad)
    # Over many draws every image is drawn equally often, up to chance.
    draws = 60
    for i in range(draws):
        one = linear_gradient(Linear("cholesky"), some, *problem, key=jax.random.key(i))
        drawn = jnp.any(one.grad.images != 0, axis=(1, 2, 3))
        assert int(drawn.sum()) == 2
        np.testing.assert_allclose(one.grad.images[drawn], 3 * whole.grad.images[drawn], rtol=1e-9)
        np.testing.assert_allclose(one.grad.labels, whole.grad.labels, rtol=1e-9)
        total = jax.tree.map(jnp.add, total, one.grad)
    mean = jax.tree.map(lambda leaf: leaf / draws, total)
    assert distance(mean.images, whole.grad.images) < 0.35  # 1.4 / sqrt(60) expected


def test_a_subset_needs_a_key(problem):
    with pytest.raises(ValueError, match="n_subset=2 draws from 6 distilled images: give a key"):
        linear_gradient(Linear("cholesky"), make_method("rcig", n_subset=2), *problem)


@pytest.mark.parametrize("features", [4, 30])
def test_the_kernel_and_its_inverse_in_both_forms(x64, features):
    h = jax.random.normal(jax.random.key(0), (10, features))
    b = jax.random.normal(jax.random.key(1), (10, 3))
    kernel = Kernel.make(h, 0.1, jnp.float64)
    r = h @ h.T + 0.1 * jnp.eye(10)
    np.testing.assert_allclose(kernel(b), r @ b, rtol=1e-10)
    np.testing.assert_allclose(kernel.solve(b), jnp.linalg.solve(r, b), rtol=1e-7)
    np.testing.assert_allclose(kernel.precondition(b), jnp.linalg.solve(r, b), rtol=1e-7)


def system(rows, columns, parameters, *, factorise):
    matrix = jax.random.normal(jax.random.key(2), (rows * columns, parameters))
    h = jax.random.normal(jax.random.key(3), (rows, 7))
    kernel = Kernel.make(h, 0.5, matrix.dtype)
    made = System.make(Jacobian.make([Rows(matrix, rows)], jnp.zeros(parameters)), kernel)
    whole = matrix @ matrix.T + jnp.kron(h @ h.T + 0.5 * jnp.eye(rows), jnp.eye(columns))
    return (made if factorise else eqx.tree_at(lambda s: s.factor, made, None)), whole


def energy(matrix, x):
    return float(jnp.sqrt(x.ravel() @ matrix @ x.ravel()))


def test_the_estimated_error_is_near_the_true_one(x64):
    made, matrix = system(30, 2, 120, factorise=False)
    b = jax.random.normal(jax.random.key(4), (30, 2))
    x = jnp.linalg.solve(matrix, b.ravel()).reshape(b.shape)
    for tolerance in (1e-1, 1e-2, 1e-4, 1e-6):
        found = made.solve(b, tolerance, 200)
        error = energy(matrix, found.x - x) / energy(matrix, x)
        assert error < 3 * tolerance
        assert 0.3 * error < float(found.error) < 10 * error
        np.testing.assert_allclose(
            found.mended - found.x,
            made.kernel.solve(b - (matrix @ found.x.ravel()).reshape(b.shape)),
            rtol=1e-5, atol=1e-10,
        )  # fmt: skip


def test_directions_of_one_solve_shorten_the_next(x64):
    made, matrix = system(30, 2, 50, factorise=False)
    first, second = jax.random.normal(jax.random.key(5), (2, 30, 2))
    earlier = made.solve(first, 1e-10, 200)
    alone = made.solve(second, 1e-8, 200)
    after = made.solve(second, 1e-8, 200, earlier.searched)
    x = jnp.linalg.solve(matrix, second.ravel()).reshape(second.shape)
    assert energy(matrix, after.x - x) < 1e-7 * energy(matrix, x)
    assert int(after.steps) < int(alone.steps)
    # The same right-hand side needs next to nothing more, nor does a direction that is doubled.
    again = made.solve(first, 1e-8, 200, earlier.searched)
    assert int(again.steps) < int(earlier.steps)
    space = KrylovSpace.make(*(jnp.concatenate([leaf, leaf[:3]]) for leaf in earlier.searched))
    np.testing.assert_allclose(
        space.project(first)[0], KrylovSpace.make(*earlier.searched).project(first)[0], atol=1e-9
    )


def test_cholesky_in_output_space(x64):
    made, matrix = system(8, 3, 40, factorise=True)
    b = jax.random.normal(jax.random.key(6), (8, 3))
    found = made.solve(b, 1e-2, 1)
    np.testing.assert_allclose(found.x.ravel(), jnp.linalg.solve(matrix, b.ravel()), rtol=1e-8)
    assert (int(found.steps), float(found.error)) == (0, 0)
    assert made.solve(b * jnp.nan, 1e-2, 1).result == Result.nonfinite


def test_nothing_to_solve_is_solved_by_zero(x64):
    made, _ = system(8, 3, 40, factorise=False)
    found = made.solve(jnp.zeros((8, 3)), 1e-2, 10)
    assert float(jnp.max(jnp.abs(found.x))) == 0
    assert (int(found.steps), found.result) == (0, Result.successful)
    assert made.solve(jnp.full((8, 3), jnp.nan), 1e-2, 10).result == Result.nonfinite


def test_more_rows_than_features_lose_no_digits_in_float32():
    h = 30 * np.random.default_rng(0).normal(size=(60, 20))
    b = np.random.default_rng(1).normal(size=(60, 3))
    exact = np.linalg.solve(h @ h.T + 0.1 * np.eye(60), b)
    kernel = Kernel.make(jnp.asarray(h, jnp.float32), 0.1, jnp.float32)
    for found in (kernel.solve, kernel.precondition):
        x = found(jnp.asarray(b, jnp.float32))
        assert np.linalg.norm(x - exact) < 1e-5 * np.linalg.norm(exact)
