"""Which labels are wrong?

Half of the labels of 400 training digits are drawn anew. A weight for each image is learned, so
that a softmax regression on the weighted images does well on a hundred clean ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _figure import BLUE, RED, axes, save
from sklearn.datasets import load_digits

from bilevel import implicit_value_and_grad
from bilevel.inverse_hvp import CG
from bilevel.solvers import LBFGS

images, labels = load_digits(return_X_y=True)
images, rng = jnp.asarray(images / 16, jnp.float32), np.random.default_rng(0)
wrong = rng.random(400) < 0.5
noisy = jnp.asarray(np.where(wrong, rng.integers(0, 10, 400), labels[:400]))
clean = jnp.asarray(labels[400:500])


def losses(theta, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(x @ theta, y)


def inner(theta, psi):
    weights = jax.nn.sigmoid(psi)
    return jnp.mean(weights * losses(theta, images[:400], noisy)) + 1e-3 * jnp.sum(theta**2)


def outer(theta, psi):
    return jnp.mean(losses(theta, images[400:500], clean))


compute = jax.jit(implicit_value_and_grad(outer, inner, solver=LBFGS(), inverse_hvp=CG(rtol=1e-2)))
psi, optimiser = jnp.zeros(400), optax.adam(0.3)
state, course = optimiser.init(psi), []
for _ in range(30):
    value, grad = compute(psi, jnp.zeros((64, 10)))
    updates, state = optimiser.update(grad, state)
    psi = optax.apply_updates(psi, updates)
    course.append(float(value))
print(f"validation loss {course[0]:.3f} -> {course[-1]:.3f}")

really = np.asarray(noisy) != labels[:400]
figure, (left, right) = axes(2)
left.plot(course, color=BLUE)
left.set(xlabel="step of psi", ylabel="validation loss")
for which, colour, name in ((~really, BLUE, "right"), (really, RED, "wrong")):
    right.hist(jax.nn.sigmoid(psi)[which], 20, (0, 1), color=colour, alpha=0.6, label=name)
right.set(xlabel="weight", ylabel="images")
right.legend(title="label")
save(figure, __file__)
