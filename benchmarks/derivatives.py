"""Two choices in how derivatives are computed, timed on this backend in plain JAX.

    python benchmarks/derivatives.py

Products that sum over the rows of a data matrix, as it is or stored transposed; and the mixed
derivative `d/d psi <d inner / d theta, v>`, by forward mode first or by reverse mode twice.
"""

import argparse
import time
from statistics import median

import jax
import jax.numpy as jnp
from _report import table, write
from jax import lax

STEPS = 20


def products(rows: int, columns: int):
    """`STEPS` times v -> X^T (X v), for v of shape (columns, 10)."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (rows, columns)) / (rows * columns) ** 0.5
    v = jax.random.normal(keys[1], (columns, 10))

    def loop(x, v, multiply):
        return lax.fori_loop(0, STEPS, lambda _, v: v + multiply(x @ v), v)

    def plain(x, v):
        return loop(x, v, lambda r: x.T @ r)

    def stored(x, v):
        transposed = lax.optimization_barrier(x.T)
        return loop(x, v, lambda r: transposed @ r)

    return {"as it is": (plain, (x, v)), "stored transposed": (stored, (x, v))}


def mixed(images: int, width: int):
    """psi is the images of a network of two convolutions, 16 x 16 x 3."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(3, 3, 3, width), (3, 3, width, width), (16 * width, 10)]
    theta = [0.1 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    psi = jax.random.normal(keys[3], (images, 16, 16, 3))

    def inner(theta, psi):
        x = psi
        for kernel in theta[:-1]:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.softplus(x).reshape(images, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
            x = jnp.mean(x, axis=(2, 4))
        return jnp.mean((x.reshape(images, -1) @ theta[-1] - 1) ** 2)

    def forward_first(psi, theta):
        return jax.grad(
            lambda p: jax.jvp(lambda t: inner(t, p), (theta,), (theta,))[1],
        )(psi)

    def reverse_twice(psi, theta):
        def along(psi):
            gradient = jax.grad(inner)(theta, psi)
            return sum(map(jnp.vdot, gradient, theta))

        return jax.grad(along)(psi)

    arguments = (psi, theta)
    return {
        "forward mode first": (forward_first, arguments),
        "reverse mode twice": (reverse_twice, arguments),
    }


def measure(ways, repeats: int):
    programs = {name: (jax.jit(way), arguments) for name, (way, arguments) in ways.items()}
    found = {name: program(*arguments) for name, (program, arguments) in programs.items()}
    one, other = found.values()
    apart = float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other))
    assert apart < 1e-4, f"the two ways differ by {apart:.0e}"
    times = {name: [] for name in programs}
    for _ in range(repeats):  # in turns, so that load on the machine hits both alike
        for name, (program, arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(each) for name, each in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    cases = {
        "20 products, 5000 x 785": products(5000, 785),
        "20 products, 500 x 128": products(500, 128),
        "mixed derivative, 10 images": mixed(10, 32),
        "mixed derivative, 64 images": mixed(64, 32),
    }
    rows = []
    for case, ways in cases.items():
        milliseconds = measure(ways, options.repeats)
        fastest = min(milliseconds.values())
        rows += [(case, way, each, each / fastest) for way, each in milliseconds.items()]
    table(("what", "way", "ms", "times the faster"), rows)
    names = ("what", "way", "milliseconds", "ratio")
    results = [dict(zip(names, row, strict=True)) for row in rows]
    print(write("derivatives", {"settings": vars(options), "results": results}))


if __name__ == "__main__":
    main()
