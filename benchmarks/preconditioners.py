"""What preconditioners save conjugate gradients: steps and seconds to an error of 1e-3.

    python benchmarks/preconditioners.py

The network of `peers.py`, at its minimum, in float32, and a ridge whose penalties are of very
different sizes. K-FAC (Martens and Grosse, 2015), a Kronecker-factored approximation of the
Gauss-Newton matrix of each layer, is written out here for that network: it is not in the library.
Its factors, with their eigenvectors, are made outside the time that is counted.
"""

import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from _peers_problems import arrays, jax_losses, small_network
from _peers_reference import solve_exactly
from _report import table, write

from bilevel.inverse_hvp import CG, Equilibration, Nystrom

ERROR, TURNS = 1e-3, 9


def kfac(theta, psi, x):
    """M^-1 for a network of three layers with tanh between: A (x) G + penalty, layer by layer."""
    rows, layers = len(x), range(len(theta) // 2)

    def forward(taps):
        hidden, inputs = x, []
        for i in layers:
            inputs.append(jnp.concatenate([hidden, jnp.ones((rows, 1), x.dtype)], axis=1))
            outputs = hidden @ theta[2 * i] + theta[2 * i + 1] + taps[i]
            hidden = jnp.tanh(outputs) if i < len(layers) - 1 else outputs
        return outputs, inputs

    taps = [jnp.zeros((rows, theta[2 * i].shape[1]), x.dtype) for i in layers]
    logits, back, inputs = jax.vjp(forward, taps, has_aux=True)
    p = jax.nn.softmax(logits)
    # The columns of a root of the Hessian of cross-entropy, diag(p) - p p^T.
    roots = [jnp.sqrt(p[:, c, None]) * (jnp.eye(p.shape[1])[c] - p) for c in range(p.shape[1])]
    slopes = [back(root.astype(x.dtype))[0] for root in roots]
    factors = []
    for i in layers:
        a = inputs[i].T @ inputs[i] / rows
        g = sum(slope[i].T @ slope[i] for slope in slopes) / rows
        factors.append((*jnp.linalg.eigh(a), *jnp.linalg.eigh(g)))

    def inverse(v):
        out = []
        for i, (a, in_a, g, in_g) in enumerate(factors):
            stacked = jnp.concatenate([v[2 * i], v[2 * i + 1][None]])
            curvature = jnp.outer(jnp.maximum(a, 0), jnp.maximum(g, 0)) + jnp.exp(psi[i])
            moved = in_a @ ((in_a.T @ stacked @ in_g) / curvature) @ in_g.T
            out += [moved[:-1], moved[-1]]
        return tuple(out)

    return inverse


def of_network():
    problem, reference = solve_exactly(small_network(), ERROR)
    theta, psi, train, valid = arrays(problem, np.float32)
    inner, outer = jax_losses(problem)
    factored = kfac(theta, psi, train[0])
    ways = {
        "none": None,
        "Equilibration(8)": Equilibration(),
        "Nystrom(20)": Nystrom(20),
        "Nystrom(60)": Nystrom(60),
        "K-FAC": factored,
    }
    return "network of peers.py", inner, outer, (theta, psi, train, valid), reference.grad, ways


def of_penalties(size=2000, rows=400):
    rng = np.random.default_rng(0)
    x, x_valid = rng.normal(size=(2, rows, size)) / size**0.5
    y, y_valid = rng.normal(size=(2, rows))
    psi = rng.uniform(-9, 3, size)

    def inner(theta, psi, x, y):
        return jnp.mean((x @ theta - y) ** 2) + jnp.sum(jnp.exp(psi) * theta**2)

    def outer(theta, psi, x, y):
        return jnp.mean((x @ theta - y) ** 2)

    hessian = 2 * x.T @ x / rows + 2 * np.diag(np.exp(psi))
    theta = np.linalg.solve(hessian, 2 * x.T @ y / rows)
    g = 2 * x_valid.T @ (x_valid @ theta - y_valid) / rows
    right = -np.linalg.solve(hessian, g) * 2 * np.exp(psi) * theta
    data = jax.tree.map(
        lambda a: jnp.asarray(a, np.float32), (theta, psi, (x, y), (x_valid, y_valid))
    )
    ways = {"none": None, "Equilibration(8)": Equilibration(), "Nystrom(60)": Nystrom(60)}
    return "ridge, 2,000 penalties", inner, outer, data, right, ways


def compiled(inner, outer, way, max_steps=4000):
    def compute(theta, psi, train, valid, rtol):
        g = jax.grad(outer)(theta, psi, *valid)
        _, product = jax.linearize(lambda t: jax.grad(inner)(t, psi, *train), theta)
        solved = CG(rtol=rtol, max_steps=max_steps, preconditioner=way)(product, g)

        def along(psi):
            slopes = jax.grad(inner)(theta, psi, *train)
            pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(solved.v), strict=True)
            return -sum(jnp.vdot(slope, v) for slope, v in pairs)

        return jax.grad(along)(psi) + jax.grad(outer, 1)(theta, psi, *valid), solved.steps

    return jax.jit(compute)


def loosest(call, right):
    """The loosest residual from which on no error is above the asked one."""
    good = None
    for rtol in np.geomspace(0.1, 1e-5, 17):
        grad, _ = call(rtol)
        error = np.linalg.norm(np.asarray(grad) - right) / np.linalg.norm(right)
        if error > ERROR:
            good = None
        elif good is None:
            good = float(rtol)
    return good


def measure(name, inner, outer, data, right, ways):
    calls, rows = {}, []
    for way, preconditioner in ways.items():
        function = compiled(inner, outer, preconditioner)

        def call(rtol, function=function):
            return jax.block_until_ready(function(*data, jnp.float32(rtol)))

        rtol = loosest(call, right)
        if rtol is None:
            rows.append({"problem": name, "preconditioner": way, "steps": None})
            continue
        calls[way] = lambda call=call, rtol=rtol: call(rtol)
        rows.append({"problem": name, "preconditioner": way, "steps": int(call(rtol)[1])})
    times = {way: [] for way in calls}
    for _ in range(TURNS):
        for way, call in calls.items():
            start = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - start)
    took = {way: median(each) for way, each in times.items()}
    for row in rows:
        if row["preconditioner"] in took:
            row["time, in that of the fastest"] = took[row["preconditioner"]] / min(took.values())
    return rows


def main():
    rows = measure(*of_network()) + measure(*of_penalties())
    columns = ("problem", "preconditioner", "steps", "time, in that of the fastest")
    table(columns, [["-" if row.get(c) is None else row[c] for c in columns] for row in rows])
    print(write("preconditioners", {"error": ERROR, "results": rows}))


if __name__ == "__main__":
    main()
