"""A deep equilibrium layer.

The hidden state is the fixed point of a layer, however many steps it takes to find; the way back
is one linear solve. Here such a layer learns two spirals.
"""

import jax
import jax.numpy as jnp
import optax
from _figure import axes, save

from bilevel import fixed_point
from bilevel.inverse_hvp import Neumann
from bilevel.solvers import Anderson

turn = jnp.linspace(0.5, 9.0, 100)
spiral = jnp.stack([turn * jnp.cos(turn), turn * jnp.sin(turn)], 1) / 9
points, labels = jnp.concatenate([spiral, -spiral]), jnp.repeat(jnp.array([0.0, 1.0]), 100)


def layer(hidden, psi, x):
    return jnp.tanh(hidden @ psi["W"] + x @ psi["U"] + psi["b"])


hidden_at = fixed_point(
    layer, solver=Anderson(tol=1e-3, max_steps=60), throw="ignore",
    inverse_hvp=Neumann(20, step_size=1.0),
)  # fmt: skip


def logits(psi, x):
    return hidden_at(psi, jnp.zeros((len(x), 32)), x) @ psi["out"]


@jax.jit
def step(psi, state):
    def loss(psi):
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(psi, points), labels))

    value, grad = jax.value_and_grad(loss)(psi)
    updates, state = optimiser.update(grad, state)
    return optax.apply_updates(psi, updates), state, value


keys = jax.random.split(jax.random.key(0), 3)
psi = {
    "W": 0.1 * jax.random.normal(keys[0], (32, 32)), "U": 2 * jax.random.normal(keys[1], (2, 32)),
    "b": jnp.zeros(32), "out": 0.1 * jax.random.normal(keys[2], (32,)),
}  # fmt: skip
optimiser = optax.adam(1e-2)
state, course = optimiser.init(psi), []
for _ in range(300):
    psi, state, value = step(psi, state)
    course.append(float(value))
right_ones = jnp.mean((logits(psi, points) > 0) == (labels > 0.5))
print(f"loss {course[0]:.2f} -> {course[-1]:.2f}, {100 * right_ones:.0f} % of the points are right")

side = jnp.linspace(-1.1, 1.1, 60)
grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
figure, ax = axes()
ax.contourf(side, side, jax.nn.sigmoid(logits(psi, grid)).reshape(60, 60), 20, cmap="RdBu_r")
ax.scatter(*points.T, c=labels, cmap="RdBu_r", edgecolors="white", s=18)
ax.set(xticks=[], yticks=[])
save(figure, __file__)
