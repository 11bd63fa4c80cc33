"""Every inverse Hessian on every kind of problem: right to its tolerance, or it says so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest

from bilevel import Result
from bilevel.inverse_hvp import CG, SGD, Dense, Identity, Lineax, Neumann, Nystrom

SIZE = 12

METHODS = {
    "CG": CG(),
    "CG with Nystrom": CG(preconditioner=Nystrom(rank=4)),
    "CG with a function": CG(preconditioner=lambda v: 0.5 * v),
    "SGD": SGD(optax.sgd(0.15), 400),
    "SGD to a tolerance": SGD(optax.adam(0.05), 1500, rtol=1e-6),
    "Neumann": Neumann(steps=400),
    "Neumann of a step size": Neumann(steps=400, step_size=0.15, rtol=1e-8),
    "Nystrom": Nystrom(rank=4),
    "Nystrom, full": Nystrom(rank=SIZE),
    "Identity": Identity(),
    "Identity of a scale": Identity(scale=1.0),
    "Dense": Dense(),
    "Lineax GMRES": Lineax(lineax.GMRES(1e-9, 1e-9, restart=SIZE)),
    "Lineax BiCGStab": Lineax(lineax.BiCGStab(1e-9, 1e-9)),
    "Lineax CG": Lineax(lineax.CG(1e-9, 1e-9)),
    "Lineax CG with Nystrom": Lineax(lineax.CG(1e-9, 1e-9), preconditioner=Nystrom(rank=4)),
    "Lineax LU": Lineax(lineax.LU()),
    "Lineax SVD": Lineax(lineax.SVD()),
}

RNG = np.random.default_rng(0)
VECTORS = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
G = RNG.normal(size=SIZE)


def symmetric(values):
    return VECTORS @ np.diag(values) @ VECTORS.T


def with_nan():
    matrix = symmetric(np.linspace(1, 10, SIZE))
    matrix[2, 5] = np.nan
    return matrix


PROBLEMS = {
    "well conditioned": (symmetric(np.linspace(1, 10, SIZE)), G),
    "condition number 1e6": (symmetric(np.logspace(-3, 3, SIZE)), G),
    "indefinite": (symmetric(np.r_[-1.0, np.linspace(1, 5, SIZE - 1)]), G),
    "singular": (symmetric(np.r_[0.0, np.linspace(1, 5, SIZE - 1)]), G),
    "zero": (np.zeros((SIZE, SIZE)), G),
    "not symmetric": (4 * np.eye(SIZE) + RNG.normal(size=(SIZE, SIZE)) / 2, G),
    "right-hand side of 1e-13": (symmetric(np.linspace(1, 10, SIZE)), 1e-13 * G),
    "right-hand side of zero": (symmetric(np.linspace(1, 10, SIZE)), 0 * G),
    "NaN in the Hessian": (with_nan(), G),
    "NaN in the right-hand side": (symmetric(np.linspace(1, 10, SIZE)), np.full(SIZE, np.nan)),
}

ROUGH = {"Nystrom", "Identity", "Identity of a scale"}
ONLY_SYMMETRIC = {name for name, method in METHODS.items() if method.symmetric_only}
SOLVES = {
    "well conditioned": set(METHODS) - ROUGH,
    "right-hand side of 1e-13": set(METHODS) - ROUGH,
    "right-hand side of zero": set(METHODS),
    "condition number 1e6": {
        "CG",
        "CG with Nystrom",
        "CG with a function",
        "Dense",
    }
    | {name for name in METHODS if "Lineax" in name},
    "indefinite": {"Dense"} | {name for name in METHODS if "Lineax" in name},
    "not symmetric": {"Dense", "SGD", "Neumann", "Neumann of a step size"}
    | {"Lineax GMRES", "Lineax BiCGStab", "Lineax LU", "Lineax SVD"},
}
AT_THE_LIMIT_OF_PRECISION = {("Nystrom, full", "condition number 1e6")}
SAYS = {
    ("CG", "indefinite"): Result.indefinite,
    ("CG with Nystrom", "indefinite"): Result.indefinite,
    ("Nystrom, full", "indefinite"): Result.indefinite,
    ("Dense", "singular"): Result.singular,
    ("SGD", "singular"): Result.approximate,
    ("Neumann", "condition number 1e6"): Result.approximate,
    ("Nystrom", "well conditioned"): Result.approximate,
    ("Identity", "well conditioned"): Result.approximate,
    ("Identity of a scale", "well conditioned"): Result.approximate,
    ("SGD to a tolerance", "condition number 1e6"): Result.max_steps_reached,
}


@pytest.fixture(scope="module")
def solved():
    """All adjoints of a method, by one compiled program."""
    found = {}

    def of(name):
        if name not in found:
            hessians, gs = (np.stack([case[i] for case in PROBLEMS.values()]) for i in (0, 1))
            one = jax.jit(lambda hessian, g: METHODS[name](lambda v: hessian @ v, g))
            found[name] = [
                one(jnp.asarray(h), jnp.asarray(g)) for h, g in zip(hessians, gs, strict=True)
            ]
        return dict(zip(PROBLEMS, found[name], strict=True))

    return of


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
def test_right_or_said(method, problem, x64, solved):
    adjoint = solved(method)[problem]
    hessian, g = PROBLEMS[problem]
    clean = bool(adjoint.result == Result.successful)
    if "NaN" in problem:
        assert adjoint.result == Result.nonfinite
        return
    assert jnp.all(jnp.isfinite(adjoint.v))
    size = max(np.linalg.norm(g), 1e-300)
    residual = np.linalg.norm(g - hessian @ np.asarray(adjoint.v)) / size
    if jnp.linalg.norm(adjoint.v) < 1e6 * size:
        np.testing.assert_allclose(adjoint.residual, residual, rtol=1e-3, atol=1e-9)
    if clean:
        exact = np.linalg.solve(hessian, g)
        error = np.linalg.norm(adjoint.v - exact) / max(np.linalg.norm(exact), 1e-300)
        assert residual < 1e-5 and error < 1e-5 * np.linalg.cond(hessian)
    if (method, problem) not in AT_THE_LIMIT_OF_PRECISION:
        assert clean == (method in SOLVES.get(problem, ())), (adjoint.residual, adjoint.result)
    if (method, problem) in SAYS:
        assert adjoint.result == SAYS[method, problem]


@pytest.mark.parametrize("method", ["CG", "Dense", "Neumann", "Nystrom, full", "Lineax GMRES"])
def test_many_right_hand_sides_at_once(method, x64, close):
    hessian, gs = PROBLEMS["well conditioned"][0], RNG.normal(size=(3, SIZE))

    def hvp(v):
        return jnp.asarray(hessian) @ v

    found = eqx.filter_jit(METHODS[method].many)(hvp, jnp.asarray(gs))
    close(found.v, jnp.asarray(np.linalg.solve(hessian, gs.T).T), 1e-7)
    assert found.residual.shape == (3,) and jnp.all(found.residual < 1e-7)
    again = METHODS[method].many(hvp, jnp.asarray(gs), v0=found.v)
    close(again.v, found.v, 1e-7)


def test_a_factorisation_is_made_once_for_many():
    hessian = jnp.asarray(PROBLEMS["well conditioned"][0], jnp.float32)
    gs = jnp.asarray(RNG.normal(size=(5, SIZE)), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda gs: Dense().many(lambda v: hessian @ v, gs).v)(gs)
    factorised = [line for line in str(jaxpr).splitlines() if "= lu " in line]
    assert len(factorised) == 1 and f"f32[{SIZE},{SIZE}]" in factorised[0]


class TestPreconditioner:
    """A few large eigenvalues: the sketch takes them out."""

    hessian = symmetric(np.r_[np.linspace(1, 2, SIZE - 4), 1e3, 1e4, 1e5, 1e6])

    def test_it_saves_steps(self, x64, close):
        def hvp(v):
            return jnp.asarray(self.hessian) @ v

        g = jnp.asarray(G)
        plain, preconditioned = (CG(preconditioner=p)(hvp, g) for p in (None, Nystrom(rank=6)))
        close(preconditioned.v, jnp.asarray(np.linalg.solve(self.hessian, G)), 1e-7)
        assert preconditioned.result == Result.successful
        assert int(preconditioned.steps) < 0.7 * int(plain.steps)
        warm = CG(preconditioner=Nystrom(rank=6))(hvp, g, v0=preconditioned.v)
        assert warm.steps == 0

    def test_damping_is_no_part_of_the_sketch(self, x64, close):
        def hvp(v):
            return jnp.asarray(self.hessian) @ v

        expected = jnp.asarray(np.linalg.solve(self.hessian + 5 * np.eye(SIZE), G))
        for method in (
            CG(preconditioner=Nystrom(rank=6), damping=5.0),
            Nystrom(rank=SIZE, damping=5.0),
            Lineax(lineax.CG(1e-10, 1e-10), preconditioner=Nystrom(rank=6), damping=5.0),
        ):
            adjoint = method(hvp, jnp.asarray(G))
            close(adjoint.v, expected, 1e-7)
            assert adjoint.result == Result.successful

    def test_one_that_is_not_positive_definite_is_reported(self):
        signs, hessian = jnp.array([1.0, -1.0, -1.0]), jnp.array([1.0, 2.0, 3.0])
        adjoint = CG(preconditioner=lambda v: signs * v)(lambda v: hessian * v, jnp.ones(3))
        assert adjoint.result == Result.max_steps_reached


def test_nystrom_with_damping_is_its_formula(x64, close):
    """U (lambda + rho)^-1 U^T g + (g - U U^T g) / rho, for a Hessian of the rank of the sketch."""
    low = VECTORS[:, :3] @ np.diag([3.0, 50.0, 700.0]) @ VECTORS[:, :3].T
    adjoint = Nystrom(rank=3, damping=0.1)(lambda v: jnp.asarray(low) @ v, jnp.asarray(G))
    close(adjoint.v, jnp.asarray(np.linalg.solve(low + 0.1 * np.eye(SIZE), G)), 1e-9)
    assert adjoint.steps == 3 and adjoint.result == Result.successful


def test_neumann_is_its_series(x64, close):
    hessian = PROBLEMS["well conditioned"][0]
    v = term = 0.1 * G
    for _ in range(7):
        term = term - 0.1 * hessian @ term
        v = v + term
    adjoint = Neumann(steps=8, step_size=0.1)(lambda v: jnp.asarray(hessian) @ v, jnp.asarray(G))
    close(adjoint.v, jnp.asarray(v), 1e-9)


def test_neumann_finds_a_step_size_that_converges(x64):
    for scale in (1e-8, 1.0, 1e8):
        hessian = scale * PROBLEMS["well conditioned"][0]
        adjoint = Neumann(steps=400)(lambda v, h=hessian: jnp.asarray(h) @ v, jnp.asarray(G))
        assert adjoint.result == Result.successful


def test_identity_takes_the_best_multiple(x64):
    hessian, g = jnp.asarray(PROBLEMS["well conditioned"][0]), jnp.asarray(G)
    best = Identity()(lambda v: hessian @ v, g)
    for factor in (0.9, 1.1):
        other = Identity(scale=factor * best.v[0] / g[0])(lambda v: hessian @ v, g)
        assert best.residual < other.residual
    np.testing.assert_allclose(Identity(scale=1.0)(lambda v: hessian @ v, g).v, g, rtol=1e-14)
    assert Identity()(lambda v: -v, g).result == Result.indefinite


def test_lineax_warns_of_convolutions_in_its_loop():
    def hvp(v):
        return jax.lax.conv_general_dilated(v, jnp.full((1, 1, 1, 1), 2.0), (1, 1), "SAME")

    with pytest.warns(UserWarning, match="slows convolutions down tens of times"):
        adjoint = Lineax(lineax.CG(1e-6, 1e-6))(hvp, jnp.ones((1, 1, 4, 4)))
    np.testing.assert_allclose(adjoint.v, 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Neumann(steps=0), "steps=0 leaves no step"),
        (lambda: Neumann(steps=1, step_size=0.0), "step_size=0.0 is not positive"),
        (lambda: Nystrom(rank=0), "rank=0 leaves no direction"),
        (
            lambda: Lineax(lineax.LU())(lambda v, k: v, jnp.ones(2), key=jax.random.key(0)),
            "key was given, but Lineax needs .* use SGD or Neumann",
        ),
    ],
)
def test_bad_settings(make, match, unchecked):
    with pytest.raises(ValueError, match=match):
        make()
