"""Networks of flax, linen and nnx, as theta.

Too strong a weight decay is lowered, for a network of each kind. A network has many minima, and
which one a solver ends in depends on where it starts: each solve begins at the last theta, so that
one minimum is followed, and the held-out error falls from step to step. Needs `flax`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from _figure import BLUE, RED, axes, save
from flax import nnx

from bilevel import hypergradient
from bilevel.inverse_hvp import CG
from bilevel.solvers import LBFGS

x = jnp.linspace(-1, 1, 40)[:, None]
y = jnp.sin(3 * x) + 0.3 * jax.random.normal(jax.random.key(0), x.shape)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(16)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(1, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.tanh(self.first(x)))


linen = Linen()
graph, of_nnx = nnx.split(Nnx(nnx.Rngs(1)))
kinds = {
    "linen": (linen.apply, linen.init(jax.random.key(1), x)),
    "nnx": (lambda theta, x: nnx.merge(graph, theta)(x), of_nnx),
}
courses = {}
for name, (predict, theta0) in kinds.items():

    def inner(theta, psi, predict=predict):
        size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(theta))
        return jnp.mean((predict(theta, x[::2]) - y[::2]) ** 2) + jnp.exp(psi) * size

    def outer(theta, psi, predict=predict):
        return jnp.mean((predict(theta, x[1::2]) - y[1::2]) ** 2)

    compute = jax.jit(
        hypergradient(outer, inner, solver=LBFGS(), inverse_hvp=CG(damping=1e-4), throw="ignore")
    )
    psi, theta, course = jnp.array(-4.0), theta0, []
    for _ in range(25):
        h = compute(psi, theta)
        theta = h.theta
        psi -= jnp.clip(20 * h.grad, -0.2, 0.2)
        course.append(float(h.value))
    courses[name] = course
    print(f"{name}: held-out error {course[0]:.3f} -> {course[-1]:.3f}, decay {jnp.exp(psi):.1e}")

figure, ax = axes()
for (name, course), colour in zip(courses.items(), (BLUE, RED), strict=True):
    ax.plot(course, color=colour, label=f"flax.{name}")
ax.set(xlabel="step of psi", ylabel="held-out error")
ax.legend()
save(figure, __file__)
