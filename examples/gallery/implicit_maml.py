"""Implicit MAML on sine waves.

psi is a start from which a small network fits a sine wave through ten points. The inner problem
stays near psi by a penalty, so its solution is a smooth function of it, and no step of the inner
descent is kept.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _figure import BLUE, GREY, RED, axes, save

from bilevel import implicit_value_and_grad
from bilevel.inverse_hvp import CG
from bilevel.solvers import GradientDescent

net = eqx.nn.MLP(1, 1, 32, 2, jnp.tanh, key=jax.random.key(0))
psi, static = eqx.partition(net, eqx.is_inexact_array)


def predict(theta, x):
    return jax.vmap(eqx.combine(theta, static))(x[:, None])[:, 0]


def inner(theta, psi, x, y):
    apart = jax.tree.map(lambda t, p: jnp.sum((t - p) ** 2), theta, psi)
    return jnp.mean((predict(theta, x) - y) ** 2) + 0.05 * sum(jax.tree.leaves(apart))


def outer(theta, psi, x, y):
    return jnp.mean((predict(theta, x) - y) ** 2)


def task(key):
    height, phase, *_ = jax.random.uniform(key, (2,), minval=jnp.array([0.5, 0.0]), maxval=3.0)
    x = jax.random.uniform(jax.random.fold_in(key, 1), (20,), minval=-4.0, maxval=4.0)
    return x, height * jnp.sin(x + phase)


solver = GradientDescent(optax.adam(1e-2), steps=60)
compute = implicit_value_and_grad(
    outer, inner, solver=solver, inverse_hvp=CG(max_steps=5, truncated=True, damping=0.1),
    throw="ignore",
)  # fmt: skip


@jax.jit
def step(psi, state, key):
    def one(key):
        x, y = task(key)
        return compute(psi, psi, inner_args=(x[:10], y[:10]), outer_args=(x[10:], y[10:]))

    values, grads = jax.vmap(one)(jax.random.split(key, 8))
    grad = jax.tree.map(lambda g: g.mean(0), grads)
    updates, state = optimiser.update(grad, state)
    return optax.apply_updates(psi, updates), state, values.mean()


optimiser = optax.adam(3e-3)
state, course = optimiser.init(psi), []
for key in jax.random.split(jax.random.key(1), 150):
    psi, state, value = step(psi, state, key)
    course.append(float(value))
print(f"error on unseen points {course[0]:.2f} -> {sum(course[-10:]) / 10:.2f}")

x, y = task(jax.random.key(7))
theta, _ = solver(lambda theta: inner(theta, psi, x[:10], y[:10]), psi)
line = jnp.linspace(-4, 4, 100)
figure, (left, right) = axes(2)
left.plot(course, color=BLUE)
left.set(xlabel="step of psi", ylabel="error after adapting")
right.plot(line, predict(psi, line), color=GREY, label="psi")
right.plot(line, predict(theta, line), color=BLUE, label="adapted")
right.plot(x[:10], y[:10], "o", color=RED, label="ten points")
right.legend()
save(figure, __file__)
