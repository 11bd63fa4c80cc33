"""From settings to what a meta-iteration is made of."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from .._config import EvaluationConfig, Optimiser, RunConfig
from .._methods import find_method, from_settings
from .._output_space import Linear
from .._problem import (
    AbstractLinearized,
    AbstractMethod,
    AbstractSolver,
    Adam,
    Coreset,
    LinearAdjoint,
    Rates,
    centred_one_hot,
)
from .._running import is_dispatched, make_mesh
from ._makers import distilling_maker
from ._pool import MakeNetwork, make_pool
from ._state import Recipe, State


def what_compiles(config: RunConfig) -> RunConfig:
    """The config with one value for each setting that no compiled function depends on."""
    return replace(
        config,
        out=Path(),
        seed=0,
        iterations=None if config.coreset_decay == 1 else config.iterations,
        curve_points=1,
        checkpoint_seconds=0.0,
        storage="auto",
        init="real",
        samples=None,
        held_out=None,
        evaluation=EvaluationConfig(),
    )


def _rate(config: RunConfig) -> float | optax.Schedule:
    assert config.coreset_rate is not None and config.coreset_decay is not None
    if config.coreset_decay == 1:
        return config.coreset_rate
    assert config.iterations is not None
    steps = max(1, config.iterations)
    return optax.cosine_decay_schedule(config.coreset_rate, steps, config.coreset_decay)


_OPTIMISERS: dict[Optimiser, Callable[..., optax.GradientTransformation]] = {
    "adabelief": optax.adabelief,
    "adam": optax.adam,
    "sgd": partial(optax.sgd, momentum=0.5),
}


@cache
def make_recipe(
    config: RunConfig,
    image_shape: tuple[int, int, int],
    classes: int,
    samples: int,
    make_network: MakeNetwork | None = None,
    method: type[AbstractMethod] | None = None,
) -> Recipe:
    """The recipe of a complete config; the same object for the same settings, so that what was
    compiled for one run serves the next.

    `make_network` and `method`, if given, take the place of the config's own.
    """
    assert config.ridge_rate is not None and config.batch_size is not None
    assert config.coreset_optimiser is not None and config.pool_rate is not None
    assert config.pool_max_steps is not None
    mesh = make_mesh(config.devices)
    # Parts of a few rows would leave most devices idle.
    in_caches = is_dispatched(mesh)
    optimiser = optax.partition(
        {
            "coreset": _OPTIMISERS[config.coreset_optimiser](_rate(config)),
            "temperature": optax.adabelief(config.temperature_rate),
        },
        _rate_names,
    )
    microbatch = config.microbatch or (32 if in_caches else None)
    kind = method or find_method(config.method)
    settings = vars(config) | {"microbatch": microbatch, "solver": _solver(config, kind)}
    return Recipe(
        method=from_settings(kind, settings),
        clip_implicit=config.clip_implicit,
        optimiser=optimiser,
        average=optax.ema(config.average_decay, debias=True),
        pool_optimiser=optax.adam(config.pool_rate),
        make_network=make_network or distilling_maker(config, image_shape, classes),
        batch_size=min(config.batch_size, samples),
        pool_max_steps=config.pool_max_steps,
        microbatch=microbatch,
        augment=config.augment,
        mesh=mesh,
    )


def _solver(config: RunConfig, kind: type[AbstractMethod]) -> AbstractSolver:
    """How a method with an inner problem finds its gradient."""
    if config.solve == "adam":
        return Adam(config.adam_steps)
    if not issubclass(kind, AbstractLinearized):
        return LinearAdjoint(config.adam_steps, config.adjoint_rtol, config.cg_max_steps)
    return Linear(
        config.linear_solver,
        config.rtol,
        config.cg_max_steps,
        "float64" if config.float64 else None,
        config.remat,
    )


def _rate_names(coreset: Coreset) -> PyTree[str]:
    """Which of the optimiser's two rates each leaf has."""
    names = ["coreset", "coreset", "temperature"]
    return jax.tree.unflatten(jax.tree.structure(coreset), names)


def first_state(
    recipe: Recipe,
    config: RunConfig,
    images: Float[Array, "n height width channels"],
    labels: Int[np.ndarray, " n"] | Float[np.ndarray, "n classes"],
    classes: int,
    log_temperature: float = 0.0,
) -> State:
    """The state before the first meta-iteration: these images, with these classes or labels, and
    fresh networks.
    """
    soft = labels if labels.ndim == 2 else centred_one_hot(labels, classes)
    coreset = Coreset(
        images,
        jnp.asarray(soft),
        jnp.asarray(log_temperature, images.dtype),
        bool(config.flip),
    )
    assert config.pool_size is not None
    pool_key = jax.random.fold_in(jax.random.key(config.seed), 1)
    return State(
        coreset=coreset,
        optimiser=recipe.optimiser.init(coreset),  # pyright: ignore
        averaged=jax.tree.map(jnp.array, coreset),
        average=recipe.average.init(coreset),  # pyright: ignore
        pool=make_pool(recipe.make_network, recipe.pool_optimiser, config.pool_size, pool_key),
        rates=Rates(jnp.asarray(1e-3, jnp.float32), jnp.asarray(1.0, jnp.float32)),
        carried=recipe.method.begin(coreset),
    )
