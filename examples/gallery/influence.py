"""What if this sample had not been there?

The derivative of the test loss with respect to the weight of each training sample predicts what
training without it gives: one hypergradient for all of them, beside training again.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _figure import BLUE, GREY, axes, save
from sklearn.datasets import load_diabetes

from bilevel import hypergradient
from bilevel.solvers import Newton

data = np.column_stack([*map(np.asarray, load_diabetes(return_X_y=True))])
data = jnp.asarray((data - data.mean(0)) / data.std(0), jnp.float32)
x, y = data[:, :-1], data[:, -1]
train, test = slice(0, 60), slice(60, None)


def inner(theta, weights):
    return jnp.sum(weights * (x[train] @ theta - y[train]) ** 2) / 60 + 0.01 * theta @ theta


def outer(theta, weights):
    return jnp.mean((x[test] @ theta - y[test]) ** 2)


h = hypergradient(outer, inner, solver=Newton())(jnp.ones(60), jnp.zeros(10))
print(h)
predicted = -h.grad  # a weight that goes from 1 to 0


@jax.jit
def without(sample):
    weights = jnp.ones(60).at[sample].set(0)
    theta, _ = Newton()(lambda theta: inner(theta, weights), jnp.zeros(10))
    return outer(theta, weights) - h.value


found = jnp.stack([without(i) for i in range(60)])
print(f"correlation {jnp.corrcoef(predicted, found)[0, 1]:.4f}")

figure, ax = axes()
edge = float(jnp.abs(found).max())
ax.plot([-edge, edge], [-edge, edge], color=GREY, lw=1)
ax.scatter(predicted, found, color=BLUE, s=16)
ax.set(xlabel="change of the test loss, predicted", ylabel="after training again")
save(figure, __file__)
