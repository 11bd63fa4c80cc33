"""A distillation as an object: prepared data, a state, and a step that moves it on."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from ._config import EvaluationConfig, RunConfig, resolve
from ._coreset import Coreset, centred_one_hot, choose_per_class
from ._devices import gather, make_mesh, spread
from ._distilled import DistilledSet
from ._evaluation import evaluate
from ._exact import Exact
from ._meta_step import (
    Draws,
    Metrics,
    Rates,
    Recipe,
    State,
    Training,
    compiled_meta_step,
    meta_step,
)
from ._methods import make_method
from ._pool import MakeNetwork, make_pool, take
from ._rates import tune_rates, watch_rate
from .data import ImageData, Preprocessor, check_images_per_class, load
from .networks import ConvNet, check_size, relu, smooth_relu

WATCH_EVERY = 50


class Distillation:
    """Distil a data set step by step; touches neither disk nor screen.

    Attributes:
        config: the settings, complete.
        data: the images and labels.
        preprocessor: what brings images into training space.
        state: the coreset, its optimiser and average, the pool of networks.
        iteration: meta-iterations done.
        seconds: time spent in them.

    Examples:
        >>> from bilevel_distillation import Distillation, RunConfig
        >>> distillation = Distillation(RunConfig(dataset="digits", ipc=1, pool_size=2))
        >>> metrics = distillation.step()
        >>> distillation.distilled().images.shape
        (10, 8, 8, 1)
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData | None = None,
        preprocessor: Preprocessor | None = None,
    ):
        """
        Args:
            config: settings; those that are None are filled in from the data set.
            data: images and labels, if not those that `config.dataset` names.
            preprocessor: fitted already; None: it is fitted on the training images.

        Raises:
            ValueError: settings or data that cannot work, before anything is computed.
        """
        self.mesh = make_mesh(config.devices)
        self.data = load_data(config) if data is None else data
        self.config = resolve(config, self.data.image_shape, self.data.classes)
        check(self.config, self.data)
        if preprocessor is None:
            preprocessor = Preprocessor.fit(self.data.train_images, zca=bool(self.config.zca))
        self.preprocessor = preprocessor
        training = Training(
            jnp.asarray(self.preprocessor(self.data.train_images)),
            jnp.asarray(self.data.train_labels),
            self.data.classes,
        )
        self.recipe = make_recipe(
            _what_compiles(self.config),
            self.data.image_shape,
            self.data.classes,
            self.data.train_images.shape[0],
        )
        self.state = spread(self.mesh, first_state(self.recipe, self.config, training))
        self.training = spread(self.mesh, training)
        self.iteration = 0
        self.seconds = 0.0
        self._courses: list[Any] = []
        self._in_flight: Metrics | None = None
        dispatched = jax.default_backend() == "cpu" and self.mesh is None
        self._step = meta_step if dispatched else compiled_meta_step

    @property
    def total(self) -> int:
        """How many meta-iterations the config asks for."""
        assert self.config.iterations is not None
        return self.config.iterations

    @property
    def is_one_program(self) -> bool:
        """Whether a meta-iteration is compiled whole, as on an accelerator and several devices."""
        return self._step is compiled_meta_step

    def next_arguments(self) -> tuple[tuple[Recipe, Training], State, Draws]:
        """What the next meta-iteration is called with."""
        return (self.recipe, self.training), self.state, self._draw(self.iteration + 1)

    def tune(self) -> Rates:
        """Find Adam's rates, where the method and the way of solving have any."""
        if self.recipe.has_rates:
            draws = self._draw(0)
            state = self.whole_state()
            network = take(state.pool, draws.model).network
            images, labels = gather(
                self.mesh, (self.training.images[draws.rows], self.training.labels[draws.rows])
            )
            targets = jax.nn.one_hot(labels, self.training.classes)
            with jax.default_matmul_precision(self.config.precision):
                rates = tune_rates(self.recipe, state.coreset, network, images, targets)
            self.state = eqx.tree_at(lambda s: s.rates, self.state, rates)
        return self.state.rates

    def step(self) -> Metrics:
        """One meta-iteration. On an accelerator it returns before the device is done, with at most
        one more in flight, so that `seconds` keeps up.
        """
        began = time.monotonic()
        jax.block_until_ready(self._in_flight)
        arguments = self.next_arguments()
        with jax.default_matmul_precision(self.config.precision):
            self.state, metrics = self._step(*arguments)
        self._in_flight = metrics
        self.iteration += 1
        if self.recipe.has_rates:
            self._courses.append(metrics.course())
            if self.iteration % WATCH_EVERY == 0:
                self.state = eqx.tree_at(lambda s: s.rates, self.state, self._watched_rates())
        self.seconds += time.monotonic() - began
        return metrics

    def whole_state(self) -> State:
        """The state on one device; with several processes, each must call."""
        return gather(self.mesh, self.state)

    def distilled(self) -> DistilledSet:
        """The moving average of the coreset: what is evaluated and released; with several
        processes, each must call.
        """
        config, coreset = self.config, gather(self.mesh, self.state.averaged)
        return DistilledSet(
            images=np.asarray(coreset.images),
            labels=np.asarray(coreset.labels),
            classes=np.repeat(np.arange(self.data.classes, dtype=np.int32), config.ipc),
            class_names=self.data.class_names,
            preprocessor=self.preprocessor,
            log_temperature=float(coreset.log_temperature),
            flip=bool(config.flip),
            provenance={
                "dataset": self.data.name,  # of a local folder, the last part of its path
                "method": config.method,
                "solve": config.solve,
                "ipc": config.ipc,
                "seed": config.seed,
                "iterations": self.iteration,
                "network": "ConvNet",
                "width": config.width,
                "depth": config.depth,
                "padding": config.padding,
                "version": version("bilevel-distillation"),
            },
        )

    def notes(self) -> dict[str, Any]:
        """What a checkpoint must hold beside `state`; JSON-able."""
        return {"seconds": self.seconds, "courses": [list(map(bool, c)) for c in self._courses]}

    def restore(self, iteration: int, state: State, notes: dict[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.iteration, self.state = iteration, spread(self.mesh, state)
        self.seconds, self._courses = notes["seconds"], notes["courses"]

    def _watched_rates(self) -> Rates:
        courses = np.asarray([list(map(bool, course)) for course in self._courses])
        self._courses = []
        inner = watch_rate(float(self.state.rates.inner), courses[:, 0], courses[:, 1])
        adjoint = float(self.state.rates.adjoint)
        if self.config.solve == "adam":
            adjoint = watch_rate(adjoint, courses[:, 2], courses[:, 3])
        return Rates(jnp.asarray(inner), jnp.asarray(adjoint))

    def _draw(self, iteration: int) -> Draws:
        """The random choices of an iteration: a function of the seed and its number alone."""
        config = self.config
        rng = np.random.default_rng([config.seed, 1, iteration])
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2), iteration)
        samples = self.training.images.shape[0]
        rows = rng.choice(samples, self.recipe.batch_size, replace=False)
        return Draws(
            model=jnp.asarray(rng.integers(config.pool_size), jnp.int32),
            pool_steps=jnp.asarray(rng.integers(1, config.pool_steps + 1), jnp.int32),
            rows=jnp.asarray(rows, jnp.int32),
            key=key,
        )


def load_data(config: RunConfig) -> ImageData:
    """The data set that a config names."""
    return load(
        config.dataset,
        image_column=config.image_column,
        label_column=config.label_column,
        train_split=config.train_split,
        test_split=config.test_split,
        resolution=config.resolution,
    )


def check(config: RunConfig, data: ImageData) -> None:
    """Raise where a complete config does not fit the data."""
    check_images_per_class(data, config.ipc)
    if config.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "float64=True needs 64-bit numbers, which jax has switched off: call "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )
    height, width, channels = data.image_shape
    assert config.depth is not None and config.padding is not None
    check_size(height, width, config.depth, config.padding)
    if config.zca and channels == 1:
        raise ValueError(
            f"zca=True whitens colour images, and {data.name!r} is gray: use --no-zca."
        )


@cache
def network_maker(
    width: int | None,
    depth: int | None,
    padding: int | None,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    smooth: bool,
) -> MakeNetwork:
    """A function from a key to a fresh network."""
    assert width is not None and depth is not None and padding is not None

    def make_network(key):
        return ConvNet(
            image_shape,
            classes,
            width=width,
            depth=depth,
            padding=padding,
            activation=smooth_relu if smooth else relu,
            dtype=jnp.float32,
            key=key,
        )

    return make_network


def _what_compiles(config: RunConfig) -> RunConfig:
    """The config with all settings levelled that no compiled function depends on."""
    return replace(
        config,
        out=Path(),
        seed=0,
        iterations=None,
        curve_points=1,
        checkpoint_seconds=0.0,
        evaluation=EvaluationConfig(),
    )


@cache
def make_recipe(
    config: RunConfig, image_shape: tuple[int, int, int], classes: int, samples: int
) -> Recipe:
    """The recipe of a complete config; the same object for the same settings, so that what was
    compiled for one run serves the next.
    """
    assert config.ridge_rate is not None and config.batch_size is not None
    mesh = make_mesh(config.devices)
    # Parts of a few rows would leave most devices idle.
    in_caches = jax.default_backend() == "cpu" and mesh is None
    optimiser = optax.partition(
        {
            "coreset": optax.adabelief(config.coreset_rate),
            "temperature": optax.adabelief(config.temperature_rate),
        },
        _rate_names,
    )
    return Recipe(
        method=make_method(
            config.method,
            ridge_rate=config.ridge_rate,
            flip=bool(config.flip),
            microbatch=config.microbatch or (32 if in_caches else None),
            subset=config.n_subset,
        ),
        solve=config.solve,
        exact=Exact(
            config.linear_solver,
            config.tolerance,
            config.max_cg_steps,
            "float64" if config.float64 else None,
            config.remat,
            config.n_subset,
        ),
        adam_steps=config.adam_steps,
        clip_implicit=config.clip_implicit,
        optimiser=optimiser,
        average=optax.ema(config.average_decay, debias=True),
        pool_optimiser=optax.adam(config.pool_rate),
        make_network=network_maker(
            config.width,
            config.depth,
            config.padding,
            image_shape,
            classes,
            smooth=bool(config.smooth),
        ),
        batch_size=min(config.batch_size, samples),
        most_pool_steps=config.most_pool_steps,
        mesh=mesh,
    )


def _rate_names(coreset: Coreset) -> PyTree[str]:
    """Which of the optimiser's two rates each leaf has."""
    names = ["coreset", "coreset", "temperature"]
    return jax.tree.unflatten(jax.tree.structure(coreset), names)


def first_state(recipe: Recipe, config: RunConfig, training: Training) -> State:
    """The state before the first meta-iteration: random real images, fresh networks."""
    labels = np.asarray(training.labels)
    rng = np.random.default_rng([config.seed, 0])
    rows = choose_per_class(labels, training.classes, config.ipc, rng)
    coreset = Coreset(
        training.images[rows],
        jnp.asarray(centred_one_hot(labels[rows], training.classes)),
        jnp.zeros((), training.images.dtype),
    )
    pool_key = jax.random.fold_in(jax.random.key(config.seed), 1)
    return State(
        coreset=coreset,
        optimiser=recipe.optimiser.init(coreset),  # pyright: ignore
        averaged=jax.tree.map(jnp.array, coreset),
        average=recipe.average.init(coreset),  # pyright: ignore
        pool=make_pool(recipe.make_network, recipe.pool_optimiser, config.pool_size, pool_key),
        rates=Rates(jnp.asarray(1e-3, jnp.float32), jnp.asarray(1.0, jnp.float32)),
    )


class Held(eqx.Module):
    """The held-out images, preprocessed, on the device."""

    images: Float[Array, "n height width channels"]
    labels: Int[Array, " n"]


def hold(data: ImageData, preprocessor: Preprocessor) -> Held:
    """Preprocess the held-out images."""
    return Held(jnp.asarray(preprocessor(data.test_images)), jnp.asarray(data.test_labels))


def judge(
    config: RunConfig,
    held: Held,
    distilled: DistilledSet,
    *,
    seed: int = 0,
    done: Callable[[float], None] = lambda accuracy: None,
) -> list[float]:
    """Test accuracies of networks trained on a distilled set, by the config's recipe.

    Args:
        config: complete settings: the network, the evaluation, the seed.
        held: the held-out images.
        distilled: what to train on.
        seed: another one gives other networks.
        done: called with each accuracy as it comes.
    """
    coreset = Coreset(jnp.asarray(distilled.images), jnp.asarray(distilled.labels), jnp.zeros(()))
    images, labels = coreset.support(distilled.flip)
    height, width, channels = distilled.images.shape[1:]
    classes = distilled.labels.shape[1]
    shape = (height, width, channels)
    maker = network_maker(config.width, config.depth, config.padding, shape, classes, smooth=False)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 3), seed)
    return evaluate(images, labels, held.images, held.labels, maker, config.evaluation, key, done)


def judge_random_subsets(
    config: RunConfig,
    data: ImageData,
    held: Held,
    distilled: DistilledSet,
    *,
    done: Callable[[float], None] = lambda accuracy: None,
) -> list[float]:
    """The same for random subsets of the same size, a new one for each network."""
    accuracies = []
    one = replace(config, evaluation=replace(config.evaluation, networks=1))
    for i in range(config.evaluation.networks):
        rng = np.random.default_rng([config.seed, 2, i])
        rows = choose_per_class(data.train_labels, data.classes, config.ipc, rng)
        labels = data.train_labels[rows]
        subset = replace(
            distilled,
            images=distilled.preprocessor(data.train_images[rows]),
            labels=centred_one_hot(labels, data.classes),
            classes=labels.astype(np.int32),
        )
        accuracies += judge(one, held, subset, seed=i, done=done)
    return accuracies
