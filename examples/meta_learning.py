"""Meta-learning with implicit gradients: an initialisation from which a few images are enough.

    python examples/meta_learning.py

Implicit MAML (Rajeswaran et al., 2019). The inner problem fits a network to the five images of each
of five classes, held near the initialisation psi by a quadratic term; the outer loss is that of
other images of these classes. First-order MAML takes the outer gradient at the fitted network as it
is. Tested on classes that no training task holds. Tiny-ImageNet is read from the folder that the
environment variable BILEVEL_DATA names; where there is none, scikit-learn's digits are used, whose
five classes to learn from are too few to be better than no meta-learning.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _data import data_folder
from datasets import load_dataset
from PIL.Image import Resampling
from sklearn.datasets import load_digits

from bilevel import argmin, hypergradient
from bilevel.inverse_hvp import CG, Identity
from bilevel.solvers import GradientDescent

WAYS, SHOTS, QUERIES, STRENGTH = 5, 5, 15, 1.0


def load(size):
    """The name of the set; `size` of its images, standardised: [classes, images, features]."""
    folder = data_folder("tiny_imagenet")
    if folder.is_dir():
        name, split = "Tiny-ImageNet", f"train[:{size}]"
        rows = load_dataset(str(folder), split=split)
        small = [image.convert("RGB").resize((16, 16), Resampling.BOX) for image in rows["image"]]
        x, y = np.stack([np.ravel(image) for image in small]), np.asarray(rows["label"])
    else:
        name, (x, y) = "digits", map(np.asarray, load_digits(return_X_y=True))
    fewest = np.min(np.bincount(y))
    x = np.stack([x[y == label][:fewest] for label in np.unique(y)])
    return name, jnp.asarray((x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-3), jnp.float32)


def draw_task(images, key):
    """The support set and the query set of a few random classes."""
    classes_key, images_key = jax.random.split(key)
    classes = jax.random.choice(classes_key, images.shape[0], (WAYS,), replace=False)
    orders = jax.vmap(lambda key: jax.random.permutation(key, images.shape[1]))(
        jax.random.split(images_key, WAYS)
    )
    x, y = images[classes[:, None], orders[:, : SHOTS + QUERIES]], jnp.arange(WAYS)
    support, query = (part.reshape(-1, images.shape[2]) for part in jnp.split(x, [SHOTS], axis=1))
    return (support, jnp.repeat(y, SHOTS)), (query, jnp.repeat(y, QUERIES))


def loss(network, x, y):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network)(x), y))


def inner(theta, psi, x, y, strength):
    theta_arrays, psi_arrays = (eqx.filter(network, eqx.is_array) for network in (theta, psi))
    distance = optax.tree.norm(optax.tree.sub(theta_arrays, psi_arrays), squared=True)
    return loss(theta, x, y) + strength / 2 * distance


def outer(theta, psi, x, y):
    return loss(theta, x, y)


def meta_train(psi, images, solver, inverse_hvp, steps, tasks):
    """psi after `steps` of Adam, each with the mean hypergradient of `tasks` tasks."""
    # A few steps towards H^-1 g are what is asked for, not a solution.
    compute = hypergradient(outer, inner, solver=solver, inverse_hvp=inverse_hvp, throw="ignore")
    optimiser = optax.adam(1e-3)

    @eqx.filter_jit
    def step(psi, state, images, key):
        def grad(key):
            support, query = draw_task(images, key)
            return compute(psi, psi, inner_args=(*support, STRENGTH), outer_args=query).grad

        grads = eqx.filter_vmap(grad)(jax.random.split(key, tasks))
        mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), grads)
        updates, state = optimiser.update(mean, state)
        return eqx.apply_updates(psi, updates), state

    state = optimiser.init(eqx.filter(psi, eqx.is_array))
    for key in jax.random.split(jax.random.key(1), steps):
        psi, state = step(psi, state, images, key)
    return psi


@eqx.filter_jit
def accuracies(psi, images, keys, solver, strength):
    """In percent, on the query set of one task a key, after fitting its support set from psi."""

    def accuracy(key):
        (x, y), (x_query, y_query) = draw_task(images, key)
        theta = argmin(inner, solver=solver)(psi, psi, x, y, strength)
        return 100 * jnp.mean(jnp.argmax(jax.vmap(theta)(x_query), axis=1) == y_query)

    return jax.lax.map(accuracy, keys)


def main(size=20_000, steps=200, tasks=16, test_tasks=400, width=64):
    name, images = load(size)
    held_out = WAYS * max(1, len(images) // (5 * WAYS))
    images = images[np.random.default_rng(0).permutation(len(images))]
    images, new = images[held_out:], images[:held_out]
    start = eqx.nn.MLP(images.shape[2], WAYS, width, depth=2, key=jax.random.key(0))

    # With v = g / strength, the Hessian of `loss` left out, psi gets the outer gradient at theta*.
    ways = {"first-order MAML": Identity(scale=1 / STRENGTH), "implicit MAML": CG(max_steps=3)}
    solver = GradientDescent(optax.sgd(0.1, momentum=0.9), steps=16)
    keys = jax.random.split(jax.random.key(2), test_tasks)
    longer = GradientDescent(optax.sgd(0.01, momentum=0.9), steps=100)
    results = {"from scratch": (np.asarray(accuracies(start, new, keys, longer, 0.0)), 0.0)}
    for row, inverse_hvp in ways.items():
        began = time.perf_counter()
        psi = meta_train(start, images, solver, inverse_hvp, steps, tasks)
        seconds = time.perf_counter() - began
        results[row] = np.asarray(accuracies(psi, new, keys, solver, STRENGTH)), seconds

    print(f"{name}: {WAYS} classes, {SHOTS} images each; {len(new)} classes held out for testing")
    print(f"{'initialisation':16} accuracy on {test_tasks} test tasks    meta-training")
    for row, (percent, seconds) in results.items():
        interval = 1.96 * np.std(percent) / np.sqrt(len(percent))
        print(f"{row:16} {np.mean(percent):14.1f} ± {interval:.1f} %      {seconds:15.0f} s")
    return {row: percent for row, (percent, _) in results.items()}


if __name__ == "__main__":
    main()
