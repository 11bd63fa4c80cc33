"""A solver of one's own with an optimality condition of one's own: the first principal component.

    python examples/own_condition.py

The direction v of largest variance is found by NumPy, of which JAX knows nothing. What holds at it
is `C v = s v` and `v v = 1`, and that is enough to differentiate it. How much does each image pull
the component? The derivative with respect to its weight predicts what leaving the image out does to
the variance that the component explains of other images. scikit-learn's digits, the threes.
"""

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from bilevel import hypergradient
from bilevel.inverse_hvp import Dense
from bilevel.problems import Root

x, y = map(np.asarray, load_digits(return_X_y=True))
threes = x[y == 3].astype(np.float32) / 16
threes = threes - threes.mean(0)
train, rest = threes[:90], threes[90:]


def covariance(weights, x):
    return (x * weights[:, None]).T @ x / weights.sum()


def condition(theta, weights):
    """What is zero at a principal component, as many numbers as there are unknowns."""
    v, s = theta["component"], theta["variance"]
    return {"component": covariance(weights, train) @ v - s * v, "variance": (v @ v - 1) / 2}


def principal(weights):
    values, vectors = np.linalg.eigh(covariance(np.asarray(weights, np.float64), train))
    v = vectors[:, -1] * np.sign(vectors[:, -1].sum())
    return {"component": jnp.asarray(v, jnp.float32), "variance": jnp.float32(values[-1])}


def explained(theta, weights):
    return jnp.mean((rest @ theta["component"]) ** 2)


def main(count=10):
    weights = jnp.ones(len(train))
    compute = hypergradient(
        explained,
        Root(condition),
        solver=lambda F, theta0: principal(weights),
        inverse_hvp=Dense(),
    )
    h = compute(weights, principal(weights))
    order = np.argsort(-np.abs(np.asarray(h.grad)))[:count]
    print(f"variance explained {h.value:.4f}, residual {float(h.inner.gradient_norm):.0e}")
    print("left out  predicted  computed again")
    rows = []
    for image in map(int, order):
        again = explained(principal(weights.at[image].set(0.0)), weights)
        rows.append((-float(h.grad[image]), float(again - h.value)))
        print(f"{image:8d} {rows[-1][0]:+10.5f} {rows[-1][1]:+15.5f}")
    return h, np.array(rows)


if __name__ == "__main__":
    main()
