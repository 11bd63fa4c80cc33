"""A whole outer loop in lax.scan.

psi and theta are Equinox modules. Theta and the adjoint start where the last step left them, and
all of it is one compiled program.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _figure import BLUE, RED, axes, save

from bilevel import hypergradient
from bilevel.inverse_hvp import CG
from bilevel.solvers import GradientDescent

x = jnp.linspace(-1, 1, 40)[:, None]
y = jnp.sin(3 * x) + 0.3 * jax.random.normal(jax.random.key(0), x.shape)
network = eqx.nn.MLP(1, 1, 16, 1, jnp.tanh, key=jax.random.key(1))
theta, static = eqx.partition(network, eqx.is_inexact_array)


class Penalties(eqx.Module):
    log_weight: jax.Array
    log_bias: jax.Array


def inner(theta, psi):
    error = jnp.mean((jax.vmap(eqx.combine(theta, static))(x[::2]) - y[::2]) ** 2)
    weights = sum(jnp.sum(w.weight**2) for w in theta.layers)
    biases = sum(jnp.sum(w.bias**2) for w in theta.layers)
    return error + jnp.exp(psi.log_weight) * weights + jnp.exp(psi.log_bias) * biases


def outer(theta, psi):
    return jnp.mean((jax.vmap(eqx.combine(theta, static))(x[1::2]) - y[1::2]) ** 2)


compute = hypergradient(
    outer, inner, solver=GradientDescent(optax.adam(1e-2), steps=50),
    inverse_hvp=CG(max_steps=10, truncated=True, damping=1e-2, loop="loop"), throw="ignore",
)  # fmt: skip
optimiser = optax.adam(0.1)


def step(carry, _):
    psi, theta, v, state = carry
    h = compute(psi, theta, v0=v)
    updates, state = optimiser.update(h.grad, state)
    carry = optax.apply_updates(psi, updates), h.theta, h.adjoint.v, state
    return carry, (h.value, psi, h.adjoint.residual)


psi = Penalties(jnp.array(-6.0), jnp.array(-6.0))
v = jax.tree.map(jnp.zeros_like, theta)
start = (psi, theta, v, optimiser.init(psi))
_, (values, psis, residuals) = jax.jit(lambda carry: jax.lax.scan(step, carry, length=80))(start)
print(f"held-out error {values[0]:.3f} -> {values[-1]:.3f}")
print(f"residual of the adjoint {residuals[0]:.2f} cold, {residuals[-1]:.2f} warm")

figure, (left, right) = axes(2)
left.plot(values, color=BLUE)
left.set(xlabel="step of psi", ylabel="held-out error")
right.plot(psis.log_weight, color=BLUE, label="weights")
right.plot(psis.log_bias, color=RED, label="biases")
right.set(xlabel="step of psi", ylabel="logarithm of the penalty")
right.legend()
save(figure, __file__)
