"""A quadratic program: weights that are not negative and keep to a budget, and the best budget.

    python examples/quadratic_program.py

A regression whose weights are not negative and sum to a budget. The multipliers are prices: that of
the budget is what the training loss would lose by a little more of it, that of a weight at zero
what the loss would gain by holding it up. Both are compared with solving again. The hypergradient
then finds the budget that is best for the rest of scikit-learn's diabetes data.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

from bilevel import argmin, hypergradient
from bilevel.problems import Constrained
from bilevel.solvers import InteriorPoint

data = np.column_stack([*map(np.asarray, load_diabetes(return_X_y=True))])
data = (data - data.mean(0)) / data.std(0)
train, rest = slice(0, 60), slice(60, None)


def fit_loss(weights, psi, x, y):
    return jnp.mean((x @ weights - y) ** 2) / 2


def budget(weights, psi, x, y):
    return jnp.sum(weights) - psi["budget"]


def below(weights, psi, x, y):
    return psi["floor"] - weights


program = Constrained(fit_loss, equality=budget, inequality=below)


def outer(weights, psi, x, y):
    return fit_loss(weights, psi, x, y)


def main(steps=15, rate=2.0):
    with jax.enable_x64(True):
        x, y = jnp.asarray(data[:, :-1]), jnp.asarray(data[:, -1])
        inner, held_out = (x[train], y[train]), (x[rest], y[rest])
        psi = {"budget": jnp.asarray(0.5), "floor": jnp.zeros(10)}
        solve = argmin(program, solver=InteriorPoint(), with_record=True)
        weights, record = solve(psi, jnp.full(10, 0.1), *inner)
        prices = record.multipliers

        def best(psi):
            return fit_loss(solve(psi, jnp.full(10, 0.1), *inner)[0], psi, *inner)

        # To first order the best loss changes by the multipliers times what the bounds change by.
        changes = jax.jit(jax.grad(best))(psi)
        ahead, behind = (best(psi | {"budget": psi["budget"] + h}) for h in (1e-4, -1e-4))
        print("weight  price of its bound  derivative")
        for row in zip(weights, prices.inequality, changes["floor"], strict=True):
            print("{:6.3f} {:19.5f} {:11.5f}".format(*map(float, row)))
        print(f"budget: price {float(-prices.equality):.6f}", end="")
        print(f", by differences {float(ahead - behind) / 2e-4:.6f}")

        compute = hypergradient(outer, program, solver=InteriorPoint())
        h = compute(psi, weights, inner_args=inner, outer_args=held_out)
        for _ in range(steps):
            psi = psi | {"budget": psi["budget"] - rate * h.grad["budget"]}
            h = compute(psi, h.theta, inner_args=inner, outer_args=held_out)
        found, slope = float(psi["budget"]), float(h.grad["budget"])
        print(f"budget after {steps} steps {found:.3f}: held-out loss {float(h.value):.4f}", end="")
        print(f", derivative {slope:+.1e}")
        return weights, prices, changes, float(ahead - behind) / 2e-4, psi, h


if __name__ == "__main__":
    main()
