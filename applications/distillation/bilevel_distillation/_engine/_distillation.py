"""A distillation as an object: prepared data, a state, and a step that moves it on."""

import time
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from .._artifacts import DistilledSet, own_version
from .._config import RunConfig, resolve
from .._problem import AbstractMethod, Batch, Rates, find_method
from .._running import gather, is_dispatched, make_mesh, spread
from ..data import ImageData, Preprocessor, check_images_per_class, load, sample
from ._initial import initial_images
from ._makers import check_judges, check_network, distilling_maker
from ._meta_step import compiled_meta_step, meta_step
from ._needs import check_room
from ._pool import MakeNetwork, take, with_statistics
from ._rates import tune_rates, watch_rate
from ._recipe import first_state, make_recipe, what_compiles
from ._state import Draws, Metrics, Recipe, State
from ._training_data import Training, Transform, choose_storage

WATCH_EVERY = 50

MOST = 1e6
"""Preprocessed images are about 1: beyond this there is nothing left of them."""


class Diverged(ValueError):
    """The numbers of a run are no longer finite, or beyond all measure."""


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
        make_network: MakeNetwork | None = None,
        method: AbstractMethod | type[AbstractMethod] | None = None,
    ):
        """
        Args:
            config: settings; those that are None are filled in from the data set.
            data: images and labels, if not those that `config.dataset` names.
            preprocessor: fitted already; None: it is fitted on the training images.
            make_network: a function from a key to a network that distils, in place of the ConvNet
                of `config`, whose width, depth, padding and norm then do nothing.
            method: a method of your own, or its class, in place of `config.method`.

        Raises:
            ValueError: settings or data that cannot work, before anything is computed.
        """
        self.mesh: Mesh | None = make_mesh(config.devices)
        self.data: ImageData = load_data(config) if data is None else data
        own = type(method) if isinstance(method, AbstractMethod) else method
        presets = (own or find_method(config.method)).presets(config.dataset, config.ipc)
        self.config: RunConfig = resolve(config, self.data.image_shape, self.data.classes, presets)
        check(self.config, self.data, make_network)
        if preprocessor is None:
            preprocessor = Preprocessor.fit(self.data.train_images, zca=bool(self.config.zca))
        self.preprocessor: Preprocessor = preprocessor
        self.recipe: Recipe = make_recipe(
            what_compiles(self.config),
            self.data.image_shape,
            self.data.classes,
            self.data.train_images.shape[0],
            make_network,
            None if isinstance(method, AbstractMethod) else method,
        )
        if isinstance(method, AbstractMethod):
            self.recipe = replace(self.recipe, method=method)
        self._is_own = make_network is not None
        self._method = config.method if own is None else own.__name__
        images, labels = initial_images(
            self.config, self.data, self.preprocessor, self.recipe.make_network
        )
        state = first_state(
            self.recipe, self.config, jnp.asarray(images), labels, self.data.classes
        )
        self.state: State = spread(self.mesh, state)
        self.resident: Training | None = self._keep()
        self._ahead: dict[int, tuple[Training, Draws]] = {}
        self.iteration: int = 0
        self.seconds: float = 0.0
        self._courses: list[Any] = []
        self._in_flight: Metrics | None = None
        self._step = meta_step if is_dispatched(self.mesh) else compiled_meta_step

    @property
    def training(self) -> Training:
        """All training images on the device.

        Raises:
            ValueError: they stay in the host's memory.
        """
        if self.resident is None:
            raise ValueError("storage='host' keeps no training images on the device: use bytes.")
        return self.resident

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
        training, draws = self._get(self.iteration + 1)
        return (self.recipe, training), self.state, draws

    def tune(self) -> Rates:
        """Find Adam's rates, where the method and the way of solving have any."""
        if self.recipe.has_rates:
            training, draws = self._get(0)
            state = self.whole_state()
            network = take(state.pool, draws.model).network
            network = with_statistics(network, state.coreset)
            batch = Batch(*gather(self.mesh, training.batch(draws.rows)), network)
            with jax.default_matmul_precision(self.config.precision):
                rates = tune_rates(self.recipe.method, state.coreset, batch)
            self.state = eqx.tree_at(lambda s: s.rates, self.state, rates)
        return self.state.rates

    def step(self) -> Metrics:
        """One meta-iteration. On an accelerator it returns before the device is done, with at most
        one more in flight, so that `seconds` keeps up.

        Raises:
            Diverged: the loss of the last one that is done is not finite.
        """
        began = time.monotonic()
        self._check_loss()
        arguments = self.next_arguments()
        with jax.default_matmul_precision(self.config.precision):
            self.state, metrics = self._step(*arguments)
        self._in_flight = metrics
        self.iteration += 1
        if self.resident is None:
            self._ahead = {self.iteration + 1: self._get(self.iteration + 1)}
        if self.recipe.has_rates:
            self._courses.append(metrics.course())
            if self.iteration % WATCH_EVERY == 0:
                self.state = eqx.tree_at(lambda s: s.rates, self.state, self._watched_rates())
        self.seconds += time.monotonic() - began
        return metrics

    def check(self) -> None:
        """Raise where the state is not one to keep: to be called before it is saved or judged.

        Raises:
            Diverged: the loss, images, labels or temperature are not finite, or beyond all measure.
        """
        self._check_loss()
        if not _is_sound(self.whole_state().coreset):
            raise self._diverged("its distilled images")

    def _check_loss(self) -> None:
        if self._in_flight is not None and not np.isfinite(float(self._in_flight.loss)):
            raise self._diverged(f"its loss ({float(self._in_flight.loss)})")

    def _diverged(self, what: str) -> Diverged:
        """The error, with the rates of what diverged."""
        names = ["coreset_rate"]
        if not _is_sound(self.whole_state().pool):
            names.append("pool_rate")
        rates = " and ".join(f"{name}={getattr(self.config, name):g}" for name in names)
        flags = " or ".join(f"--{name.replace('_', '-')}" for name in names)
        return Diverged(
            f"the run diverged: at iteration {self.iteration} {what} went beyond all measure, at "
            f"{rates}: give a smaller {flags}, in another --out."
        )

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
                "method": self._method,
                "solve": config.solve,
                "ipc": config.ipc,
                "seed": config.seed,
                "iterations": self.iteration,
                **self._describe_network(),
                "version": own_version(),
            },
        )

    def _describe_network(self) -> dict[str, Any]:
        if self._is_own:
            return {"network": type(self.state.pool.networks).__name__}
        names = ("width", "depth", "padding", "norm")
        return {"network": "ConvNet"} | {name: getattr(self.config, name) for name in names}

    def notes(self) -> dict[str, Any]:
        """What a checkpoint must hold beside `state`; JSON-able."""
        return {"seconds": self.seconds, "courses": [list(map(bool, c)) for c in self._courses]}

    def restore(self, iteration: int, state: State, notes: dict[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.iteration, self.state = iteration, spread(self.mesh, state)
        self.seconds, self._courses = notes["seconds"], notes["courses"]
        self._in_flight = None

    def _watched_rates(self) -> Rates:
        courses = np.asarray([list(map(bool, course)) for course in self._courses])
        self._courses = []
        inner = watch_rate(float(self.state.rates.inner), courses[:, 0], courses[:, 1])
        adjoint = float(self.state.rates.adjoint)
        if self.config.solve == "adam":
            adjoint = watch_rate(adjoint, courses[:, 2], courses[:, 3])
        return Rates(jnp.asarray(inner), jnp.asarray(adjoint))

    def _keep(self) -> Training | None:
        """All training images on the device; None where they stay in the host's memory."""
        devices = 1 if self.mesh is None else self.mesh.size
        storage = choose_storage(self.config.storage, self.data.train_images, devices)
        labels, classes = jnp.asarray(self.data.train_labels), self.data.classes
        if storage == "floats":
            images = jnp.asarray(self.preprocessor(self.data.train_images))
            return spread(self.mesh, Training(images, labels, classes))
        self._transform = Transform.make(self.preprocessor)
        if storage == "host":
            return None
        images = jnp.asarray(self.data.train_images)
        return spread(self.mesh, Training(images, labels, classes, self._transform))

    def _get(self, iteration: int) -> tuple[Training, Draws]:
        """What a meta-iteration draws, and what it draws from."""
        if iteration in self._ahead:
            return self._ahead[iteration]
        draws = self._draw(iteration)
        if self.resident is not None:
            return self.resident, draws
        rows = np.asarray(draws.rows)
        images = jnp.asarray(self.data.train_images[rows])
        labels = jnp.asarray(self.data.train_labels[rows])
        batch = Training(images, labels, self.data.classes, self._transform)
        return spread(self.mesh, batch), replace(draws, rows=jnp.arange(len(rows)))

    def _draw(self, iteration: int) -> Draws:
        """The random choices of an iteration: a function of the seed and its number alone."""
        config = self.config
        rng = np.random.default_rng([config.seed, 1, iteration])
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2), iteration)
        size = self.recipe.batch_size
        rows = self.recipe.method.rows(rng, self.data.train_labels, size)
        return Draws(
            model=jnp.asarray(rng.integers(config.pool_size), jnp.int32),
            pool_steps=jnp.asarray(rng.integers(1, config.pool_steps + 1), jnp.int32),
            rows=jnp.asarray(rows, jnp.int32),
            key=key,
        )


def _is_sound(tree: PyTree) -> bool:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(bool(jnp.all(jnp.abs(leaf) < MOST)) for leaf in leaves)  # NaN is not


def load_data(config: RunConfig) -> ImageData:
    """The data set that a config names, or that part of it which the run sees."""
    data = load(
        config.dataset,
        image_column=config.image_column,
        label_column=config.label_column,
        train_split=config.train_split,
        test_split=config.test_split,
        resolution=config.resolution,
    )
    return data if config.samples is None else sample(data, config.samples, config.seed)


def check(config: RunConfig, data: ImageData, make_network: MakeNetwork | None = None) -> None:
    """Raise where a complete config, or a network of the user's own, does not fit the data."""
    check_images_per_class(data, config.ipc)
    if config.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "float64=True needs 64-bit numbers, which jax has switched off: call "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )
    if config.zca and data.image_shape[2] == 1:
        raise ValueError(
            f"zca=True whitens colour images, and {data.name!r} is gray: use --no-zca."
        )
    shape, classes = data.image_shape, data.classes
    if make_network is not None:
        check_network(make_network, shape, classes)
        check_room(config, data, make_network)
        return
    check_room(config, data, distilling_maker(config, shape, classes))
    check_judges(config, shape, classes)
