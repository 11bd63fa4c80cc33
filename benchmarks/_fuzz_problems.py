"""The problems of `fuzz.py`: some 150 small bilevel problems in a handful of forms.

All problems of one form share their functions and shapes, and so their compiled programs: what
differs, the unit of the inner loss included, is data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Linear(eqx.Module):
    weight: Any
    bias: Any


@dataclass(frozen=True, eq=False)
class Form:
    """What problems share: functions and the shapes of theta and psi.

    `constraint` is None, "box" (bounds and an L1 penalty) or "simplex".
    """

    name: str
    inner: Callable
    outer: Callable
    theta: Any
    psi: Any
    constraint: str | None = None


@dataclass
class Problem:
    """One problem at unit 1, its arrays in float64.

    `convex`: it has one stationary point only, whatever a solver finds.
    `fitted`: validation targets are still to be set, to what theta* predicts with little noise.
    `warm`: theta0 is still to be set, to theta*.
    `bounds`: `lasso`, `lower` and `upper` of a form whose constraint is "box".
    """

    name: str
    form: Form
    psi: Any
    theta0: Any
    inner: dict[str, Any]
    outer: dict[str, Any]
    convex: bool = True
    fitted: bool = False
    warm: bool = False
    bounds: dict[str, float] = field(default_factory=dict)


def flatten(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _pseudo_huber(r):
    return r**2 / (1 + jnp.sqrt(1 + r**2))


def _log_cosh(r):
    return jnp.abs(r) + jnp.log1p(jnp.exp(-2 * jnp.abs(r)))


LOSSES = {
    "squares": lambda r: r**2 / 2,
    "logistic": lambda r: jax.nn.softplus(-r),
    "huber": _pseudo_huber,
    "quartic": lambda r: r**4 / 4,
    "logcosh": _log_cosh,
    "wells": lambda r: (r**2 - 1) ** 2 / 4,
}


def regression(theta, psi, data):
    """A mixture of losses of `x theta - y`, and a penalty; psi moves targets, weights, penalty."""
    t, p = flatten(theta), flatten(psi)
    rest = data["x"] @ t - data["y"] - data["target"] @ p
    losses = sum(share * f(rest) for share, f in zip(data["mixture"], LOSSES.values(), strict=True))
    fit = jnp.mean(jnp.exp(data["weight"] @ p) * losses)
    penalty = jnp.sum(data["penalty"] * jnp.exp(data["decay"] @ p) * t**2)
    return data["unit"] * (fit + penalty + data["offset"])


def validation(theta, psi, data):
    t, p = flatten(theta), flatten(psi)
    fit = jnp.mean((data["x"] @ t - data["y"]) ** 2)
    return fit + data["linear"] @ t + data["direct"] * jnp.sum((p - 1) ** 2) + data["offset"]


def network(theta, psi, data):
    """A small network with weight decay; psi is the decay and the targets."""
    hidden = jnp.tanh(data["x"] @ theta["in"].weight.T + theta["in"].bias)
    rest = hidden @ theta["out"].weight + theta["out"].bias - psi["targets"]
    decay = jnp.exp(psi["decay"]) * jnp.sum(flatten(theta) ** 2)
    return data["unit"] * (jnp.mean(rest**2) / 2 + decay)


def network_validation(theta, psi, data):
    hidden = jnp.tanh(data["x"] @ theta["in"].weight.T + theta["in"].bias)
    return jnp.mean((hidden @ theta["out"].weight + theta["out"].bias - data["y"]) ** 2)


def _zeros(*shape):
    return np.zeros(shape)


VECTOR = Form("vector", regression, validation, _zeros(6), _zeros(3))
WIDE = Form("wide", regression, validation, _zeros(24), _zeros(3))
SCALAR = Form("scalar", regression, validation, _zeros(), _zeros())
TREE = Form(
    "tree",
    regression,
    validation,
    {"layer": Linear(_zeros(2, 3), _zeros(1)), "rest": (_zeros(), _zeros(2))},
    {"a": _zeros(2), "b": _zeros()},
)
NETWORK = Form(
    "network",
    network,
    network_validation,
    {"in": Linear(_zeros(3, 2), _zeros(3)), "out": Linear(_zeros(3), _zeros())},
    {"decay": _zeros(), "targets": _zeros(8)},
)
BOX = Form("box", regression, validation, _zeros(6), _zeros(3), "box")
SIMPLEX = Form("simplex", regression, validation, _zeros(6), _zeros(3), "simplex")


class Prox(eqx.Module):
    """Soft threshold, then bounds, in units of the inner loss; its penalty is `exp(psi[0])`."""

    lasso: Any
    lower: Any
    upper: Any
    unit: Any

    def __call__(self, theta, psi, step_size):
        penalty = step_size * self.unit * self.lasso * jnp.exp(psi[0])
        shrunk = jnp.sign(theta) * jnp.maximum(jnp.abs(theta) - penalty, 0)
        return jnp.clip(shrunk, self.lower, self.upper)


def to_simplex(theta, psi):
    return optax.projections.projection_simplex(theta)


def shaped(form_tree, flat):
    """`flat` in the form of a tree."""
    leaves, structure = jax.tree.flatten(form_tree)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = np.split(np.asarray(flat, np.float64), cuts)
    shapes = [leaf.shape for leaf in leaves]
    return structure.unflatten([part.reshape(s) for part, s in zip(parts, shapes, strict=True)])


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def make_regression(
    form,
    name,
    rng,
    *,
    losses=("squares",),
    rows=20,
    condition=1.0,
    penalty=0.05,
    through=("decay",),
    start="far",
    outer="noisy",
    scale=1.0,
    offset=0.0,
    noise=0.5,
    direct=0.0,
    convex=True,
):
    """One problem of a form whose inner loss is `regression`."""
    n, p = size(form.theta), size(form.psi)
    psi = rng.normal(size=p)
    spread = np.logspace(0, -0.5 * np.log10(condition), n)
    x = rng.normal(size=(rows, n)) * spread / scale
    truth = scale * rng.normal(size=n)
    if form.constraint == "simplex":
        truth = rng.dirichlet(0.5 * np.ones(n))

    def path(which, rows, size):
        return size * rng.normal(size=(rows, p)) if which in through else np.zeros((rows, p))

    y = x @ truth + noise * rng.normal(size=rows)
    if "logistic" in losses:
        x, y = x * np.sign(y)[:, None], np.zeros(rows)
    target, weight, decay = (
        path("target", rows, 0.5),
        path("weight", rows, 0.3),
        path("decay", n, 0.5),
    )
    if start == "zero":  # theta* = 0 and the start away from it
        y = -target @ psi
    if start == "peak":  # a stationary point that is no minimum
        y, target = np.zeros(rows), np.zeros((rows, p))
    theta0 = {"near": truth + 0.1 * scale * rng.normal(size=n), "peak": np.zeros(n)}.get(
        start, scale * (3 if start == "far" else 1) * rng.normal(size=n)
    )
    if form.constraint == "simplex":
        theta0 = np.ones(n) / n
    x_val = rng.normal(size=(10, n)) / scale
    y_val = x_val @ truth + noise * rng.normal(size=10)
    if outer == "zero at start":
        y_val = x_val @ theta0
    linear = rng.normal(size=n) / scale if outer == "linear" else np.zeros(n)
    inner = {
        "x": x,
        "y": y,
        "mixture": np.array([1.0 * (loss in losses) for loss in LOSSES]),
        "target": target,
        "weight": weight,
        "decay": decay,
        "penalty": penalty * np.ones(n) / scale**2,
        "offset": np.asarray(offset),
        "unit": np.asarray(1.0),
    }
    outer_data = {
        "x": x_val * (outer != "linear"),
        "y": y_val * (outer != "linear"),
        "linear": linear,
        "direct": np.asarray(direct),
        "offset": np.asarray(offset),
    }
    return Problem(
        name,
        form,
        shaped(form.psi, psi),
        shaped(form.theta, theta0),
        inner,
        outer_data,
        convex,
        outer == "fitted",
        start == "at theta*",
    )


PATHS = (("decay",), ("target",), ("weight", "target"), ("decay", "weight", "target"))
STARTS = ("far", "near", "far", "at theta*", "zero")
OUTERS = ("noisy", "fitted", "linear", "noisy", "zero at start")
FAMILIES: dict[str, dict[str, Any]] = {
    "ridge": {},
    "ridge 1e3": {"condition": 1e3, "penalty": 1e-4},
    "ridge 1e6": {"condition": 1e6, "penalty": 1e-7},
    "logistic": {"losses": ("logistic",)},
    "logistic, little penalty": {"losses": ("logistic",), "penalty": 1e-4},
    "huber": {"losses": ("huber",), "penalty": 1e-3},
    "quartic": {"losses": ("quartic",), "penalty": 1e-3, "noise": 0.2},
    "quartic and squares": {"losses": ("quartic", "squares"), "penalty": 1e-2},
    "logcosh": {"losses": ("logcosh",), "penalty": 1e-3},
    "wells": {"losses": ("wells",), "penalty": 1e-2, "convex": False},
    "ridge, theta 1e4": {"scale": 1e4},
    "ridge, theta 1e-4": {"scale": 1e-4},
    "ridge, offset": {"offset": 1e3},
    "logcosh, offset": {"losses": ("logcosh",), "penalty": 1e-3, "offset": 1e3},
}


def _variants(form, families, count, seed) -> Iterator[Problem]:
    """`count` problems of each family, through paths, starts and outer losses in turn."""
    for which, name in enumerate(families):
        for i in range(count):
            turn = which + i
            options = {"through": PATHS[turn % 4], "start": STARTS[(turn + i) % 5]}
            options |= {"outer": OUTERS[(2 * turn + i) % 5], "direct": 0.02 * (turn % 3 == 0)}
            if "logistic" in name and options["start"] == "zero":
                options["start"] = "near"
            rng = np.random.default_rng([seed, which, i])
            label = f"{form.name}, {name}, {i}: {'+'.join(options['through'])}, "
            label += f"start {options['start']}, outer {options['outer']}"
            yield make_regression(form, label, rng, **options | FAMILIES[name])


def _special(seed) -> Iterator[Problem]:
    """What a form's families leave out."""
    for i in range(4):
        rng = np.random.default_rng([seed, 100, i])
        wells = FAMILIES["wells"] | {"penalty": 1e-3, "noise": 0.1}
        yield make_regression(
            VECTOR, f"vector, peak, {i}", rng, start="peak", through=("decay", "weight"), **wells
        )
    for i in range(8):  # more parameters than data, and nothing that holds the rest
        rng = np.random.default_rng([seed, 101, i])
        through = ("target",) if i < 5 else ("weight", "target")
        yield make_regression(
            WIDE, f"wide, singular, {i}", rng, rows=12, penalty=0.0, through=through,
            outer=OUTERS[i % 5], start="far", convex=False,
        )  # fmt: skip


def _wide(seed) -> Iterator[Problem]:
    names = ("ridge", "ridge 1e3", "logistic", "huber", "wells", "ridge 1e6")
    for problem in _variants(WIDE, names, 3, seed):
        problem.inner |= {k: problem.inner[k][:12] for k in ("x", "y", "target", "weight")}
        yield problem


def _networks(count, seed) -> Iterator[Problem]:
    for i in range(count):
        rng = np.random.default_rng([seed, 102, i])
        decay, far = (-4.0, -7.0, -2.0)[i % 3], (0.3, 1.0, 3.0)[i % 3]
        x, x_val = rng.normal(size=(8, 2)), rng.normal(size=(6, 2))
        psi = {"decay": np.asarray(decay), "targets": np.sin(2 * x[:, 0]) + x[:, 1] / 2}
        theta0 = shaped(NETWORK.theta, far * rng.normal(size=size(NETWORK.theta)))
        outer = {"x": x_val, "y": np.sin(2 * x_val[:, 0]) + x_val[:, 1] / 2}
        name = f"network, {i}: decay {decay:g}, start {far:g}"
        inner = {"x": x, "unit": np.asarray(1.0)}
        yield Problem(name, NETWORK, psi, theta0, inner, outer, convex=False)


def _constrained(count, seed) -> Iterator[Problem]:
    kinds = {
        "box": (0.0, -0.5, 0.5),
        "lasso": (0.15, -np.inf, np.inf),
        "non-negative": (0.0, 0.0, np.inf),
        "lasso in a box": (0.1, -0.8, 0.8),
    }
    for which, (kind, bounds) in enumerate(kinds.items()):
        for i in range(count):
            rng = np.random.default_rng([seed, 103, which, i])
            losses = ("squares",) if i % 2 == 0 else ("huber",)
            problem = make_regression(
                BOX, f"box, {kind}, {i}", rng, losses=losses, through=PATHS[i % 4],
                outer=OUTERS[(i + which) % 5], start=("near", "far")[i % 2],
            )  # fmt: skip
            problem.bounds |= dict(zip(("lasso", "lower", "upper"), bounds, strict=True))
            yield problem
    for i in range(2 * count):
        rng = np.random.default_rng([seed, 104, i])
        yield make_regression(
            SIMPLEX, f"simplex, {i}", rng, through=PATHS[i % 4], outer=OUTERS[i % 5], noise=0.2
        )


def problems(seed: int = 0) -> list[Problem]:
    """All problems, those of one form together."""
    names = list(FAMILIES)
    trees = ("ridge", "quartic and squares", "logcosh", "wells", "ridge 1e3")
    scalars = ("ridge", "logcosh", "quartic and squares", "huber", "wells", "logistic")
    made = [*_variants(VECTOR, names, 4, seed), *_special(seed), *_wide(seed)]
    made += [*_variants(SCALAR, scalars, 3, seed + 1), *_variants(TREE, trees, 4, seed + 2)]
    made += [*_networks(12, seed), *_constrained(3, seed)]
    order = [form.name for form in (VECTOR, WIDE, SCALAR, TREE, NETWORK, BOX, SIMPLEX)]
    return sorted(made, key=lambda problem: order.index(problem.form.name))
