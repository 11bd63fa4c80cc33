"""How gradient steps should be run: looped, unrolled or dispatched, on this device.

    python benchmarks/loops.py

On a CPU a convolution inside an XLA loop takes a slow path; the same network written with patches
and matrix products does not. `loop="auto"` of the solvers follows from this table.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import optax
from _report import table, write
from jax import lax

from bilevel.solvers import GradientDescent

WIDTH, IMAGES, SIDE = 32, 20, 16


def convolution(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def patches_and_product(x, kernel):
    height, width, channels, out = kernel.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [
        padded[:, i : i + x.shape[1], j : j + x.shape[2]]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(rows, axis=-1) @ kernel.reshape(height * width * channels, out)


LAYERS = {"convolution": convolution, "matrix products": patches_and_product}


def problem(layer):
    keys = jax.random.split(jax.random.key(0), 4)
    images = jax.random.normal(keys[0], (IMAGES, SIDE, SIDE, 3))
    theta = {
        "first": 0.1 * jax.random.normal(keys[1], (3, 3, 3, WIDTH)),
        "second": 0.1 * jax.random.normal(keys[2], (3, 3, WIDTH, WIDTH)),
        "head": 0.1 * jax.random.normal(keys[3], (WIDTH, 10)),
    }

    def loss(theta):
        hidden = jax.nn.relu(layer(images, theta["first"]))
        hidden = jax.nn.relu(layer(hidden, theta["second"]))
        return jnp.mean((hidden.mean((1, 2)) @ theta["head"] - 1) ** 2)

    return loss, theta


def seconds(run, repeats):
    """Of the first call, compilation included, and the fastest of the others."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    optimiser, rows, results = optax.adam(1e-3), [], []
    for name, layer in LAYERS.items():
        loss, theta = problem(layer)
        for way in ("loop", "unroll", "dispatch", "auto"):
            solver = GradientDescent(optimiser, options.steps, loop=way)
            first, best = seconds(partial(solver, loss, theta), options.repeats)
            rows.append([name, way, 1e3 * best, first])
            results.append(
                {"network": name, "way": way, "seconds": best, "first_call_seconds": first}
            )  # fmt: skip
    table(["network", "way", f"{options.steps} steps, ms", "first call, s"], rows)
    print(write("loops", {"steps": options.steps, "images": [IMAGES, SIDE, SIDE, 3],
                          "width": WIDTH, "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()
