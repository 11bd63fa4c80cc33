"""What one of 8 devices computes and holds in a meta-step, against one device alone.

    python benchmarks/devices.py [--ipc 500] [--width 32] [--steps 8]

The meta-step is compiled for 1 and for 8 simulated CPU devices, not run: XLA tells the operations
and the memory of one device's program. CIFAR-10's shapes, 10 classes, RCIG by conjugate gradients
in so many steps, unrolled. XLA counts the body of a loop once (the training steps of the pool's
network), and no operations of a Cholesky factorisation.

Then a meta-gradient on real images (digits, 8 per class) by one and by 8 devices, in float32 and in
float64: what differs between devices, beside what float32 itself gets wrong.
"""

import argparse
import re
import time
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _report import table, write
from _whole_step import compile_whole, memory_of

from bilevel_distillation import Distillation, RunConfig, resolve
from bilevel_distillation.engine import (
    Batch,
    coreset_gradient,
    layout,
    make_mesh,
    make_recipe,
    take,
)

SHAPE, CLASSES, SAMPLES = (32, 32, 3), 10, 50_000
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def largest(text: str, count: int = 8) -> list[str]:
    """The collective operations of a program with the greatest results, in MB."""
    sizes = {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "pred": 1, "s8": 1, "u8": 1, "s64": 8}
    found = {}
    for shapes, name in re.findall(rf"= (\S.*?) ({COLLECTIVES})(?:-start)?\(", text):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        size = sum(sizes[kind] * np.prod([int(d) for d in dims.split(",") if d]) / 1e6
                   for kind, dims in arrays)  # fmt: skip
        shown = " ".join(f"{kind}[{dims}]" for kind, dims in arrays[:3])
        what = f"{name} {shown}{' ...' if len(arrays) > 3 else ''}"
        found[what] = (size, found.get(what, (0, 0))[1] + 1)
    ordered = sorted(found.items(), key=lambda item: -item[1][0])[:count]
    return [f"{size:.4g} MB  {times} x {what}" for what, (size, times) in ordered]


def measure(config: RunConfig, devices: int, dump: str | None):
    config = resolve(config, SHAPE, CLASSES)
    mesh = make_mesh(devices)
    recipe = make_recipe(replace(config, devices=8), SHAPE, CLASSES, SAMPLES)
    recipe = replace(recipe, mesh=mesh)
    began = time.perf_counter()
    compiled = compile_whole(recipe, config, SHAPE, CLASSES, SAMPLES, mesh)
    cost, parts = compiled.cost_analysis(), memory_of(compiled)
    text = compiled.as_text()
    if dump:
        open(f"{dump}.{devices}", "w").write(text)
    return {
        "devices": devices,
        "operations": cost["flops"],
        "memory_bytes": sum(parts.values()),
        **parts,
        "compile_seconds": round(time.perf_counter() - began, 1),
        "largest_collectives": largest(text),
    }


def agreement(**settings) -> dict[str, float]:
    """Relative differences of the meta-gradient of the images."""

    def gradient(devices: int, dtype):
        config = RunConfig(dataset="digits", ipc=8, width=16, devices=devices, pool_size=8,
                           batch_size=256, **settings)  # fmt: skip
        one = Distillation(config)
        network = take(one.state.pool, jnp.asarray(0)).network
        arguments = (one.state.coreset, network, *one.training.batch(jnp.arange(256)))

        def place(leaf):
            if not eqx.is_inexact_array(leaf):
                return leaf
            leaf = np.asarray(leaf).astype(dtype)
            at = None if one.recipe.mesh is None else layout(one.recipe.mesh, leaf.shape)
            return jax.device_put(leaf, at)

        def images(coreset, network, images, targets):
            batch = Batch(images, targets, network, one.state.rates, jax.random.key(0))
            return coreset_gradient(one.recipe, coreset, batch).grad.images

        return np.asarray(eqx.filter_jit(images)(*jax.tree.map(place, arguments)))

    single = {devices: gradient(devices, np.float32) for devices in (1, 8)}
    with jax.enable_x64(True):
        double = {devices: gradient(devices, np.float64) for devices in (1, 8)}

    def apart(one, other) -> float:
        return float(np.linalg.norm(one - other) / np.linalg.norm(other))

    return {
        "8 devices, float32": apart(single[8], single[1]),
        "8 devices, float64": apart(double[8], double[1]),
        "float32 against float64, one device": apart(single[1], double[1]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ipc", type=int, default=500)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--dump", help="write the compiled programs to files of this name")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    config = RunConfig(dataset="cifar10", ipc=options.ipc, width=options.width, iterations=1,
                       cg_max_steps=options.steps, linear_solver="cg", pool_size=32)  # fmt: skip
    found = [measure(config, devices, options.dump) for devices in (1, 8)]
    one, eight = found
    ratios = {name: one[name] / eight[name] for name in ("operations", "memory_bytes")}
    table(
        ["devices", "G operations", "memory, MB", "of it temporaries", "compiled in s"],
        [
            [f["devices"], f["operations"] / 1e9, f["memory_bytes"] / 1e6, f["temporaries"] / 1e6,
             f["compile_seconds"]]
            for f in found
        ],
    )  # fmt: skip
    print(f"one to eight: {ratios['operations']:.2f} and {ratios['memory_bytes']:.2f}")
    print("largest collectives of 8:", *eight["largest_collectives"], sep="\n  ")
    agreed = {f"ridge {rate:g}": agreement(ridge_rate=rate, linear_solver="cholesky")
              for rate in (5e-4, 0.1)}  # fmt: skip
    columns = list(agreed["ridge 0.1"])
    table(["", *columns], [[name, *of.values()] for name, of in agreed.items()])
    settings = {
        "distilled_images": options.ipc * CLASSES,
        "width": options.width,
        "cg_steps": options.steps,
        "batch_size": resolve(config, SHAPE, CLASSES).batch_size,
        "pool_size": config.pool_size,
        "training_images": SAMPLES,
    }
    write(
        "devices",
        {"settings": settings, "programs": found, "one_to_eight": ratios, "agreement": agreed},
    )


if __name__ == "__main__":
    main()
