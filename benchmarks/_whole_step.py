"""A meta-step compiled whole, as on an accelerator, for shapes alone: nothing is run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bilevel_distillation import RunConfig
from bilevel_distillation.engine import (
    Draws,
    Recipe,
    Training,
    first_state,
    layout,
    meta_step,
)


def compile_whole(
    recipe: Recipe,
    config: RunConfig,
    shape: tuple[int, int, int],
    classes: int,
    samples: int,
    mesh: Mesh | None = None,
):
    """The program of a complete config's meta-step on `samples` training images."""
    labels = np.arange(samples) % classes
    images = jax.ShapeDtypeStruct((samples, *shape), jnp.float32)

    def start(images):
        distilled = labels[: config.ipc * classes]
        return first_state(recipe, config, images[: len(distilled)], distilled, classes)

    state, static = eqx.partition(
        eqx.filter_eval_shape(start, images), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    draws = Draws(
        scalar,
        scalar,
        jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
        jax.eval_shape(lambda: jax.random.key(0)),
    )

    def step(data, arrays, draws):
        fixed = recipe, Training(*data, classes)
        after, metrics = meta_step(fixed, eqx.combine(arrays, static), draws)
        return eqx.filter(after, eqx.is_array), metrics

    fixed_labels = jax.ShapeDtypeStruct(labels.shape, jnp.int32)
    arguments = (_laid_out(mesh, (images, fixed_labels)), _laid_out(mesh, state), draws)
    return jax.jit(step, donate_argnums=1).lower(*arguments).compile()


def memory_of(program) -> dict[str, int]:
    """Bytes: arguments, outputs, temporaries, and what outputs share with arguments (negative)."""
    memory = program.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "aliased": -memory.alias_size_in_bytes,
    }


def _laid_out(mesh: Mesh | None, tree):
    def one(leaf):
        sharding = None if mesh is None else layout(mesh, leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(one, tree)
