"""A distillation as an object: prepared data, a state, and a step that moves it on."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._artifacts import DistilledSet
from .._config import RunConfig, resolve
from .._methods import find_method
from .._problem import AbstractMethod, Batch, Rates
from .._running import gather, is_dispatched, make_mesh, spread
from ..data import ImageData, Preprocessor
from ._beginning import beginning_of, with_its_settings
from ._divergence import Diverged as Diverged
from ._divergence import diverged, is_sound
from ._initial import initial_images
from ._inputs import check
from ._inputs import load_data as load_data
from ._meta_step import compiled_meta_step, meta_step
from ._once import choose, prepare_once
from ._pool import MakeNetwork, take, with_statistics
from ._provenance import arithmetic, check_arithmetic, made_for, provenance
from ._rates import tune_rates, watch_rate
from ._recipe import first_state, make_recipe, what_compiles
from ._spent import Spent
from ._state import Draws, Metrics, Recipe, State
from ._training_data import Training, Transform, choose_storage

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
        spent: the same, of all processors together too, and memory at the peak.

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
        beginning: DistilledSet | None = None,
    ):
        """
        Args:
            config: settings; those that are None are filled in from the data set.
            data: images and labels, if not those that `config.dataset` names.
            preprocessor: fitted already; None: it is fitted on the training images.
            make_network: a function from a key to a network that distils, in place of the ConvNet
                of `config`, whose width, depth, padding and norm then do nothing.
            method: a method of your own, or its class, in place of `config.method`.
            beginning: the set that `config.init` names, where it has been read already.

        Raises:
            ValueError: settings or data that cannot work, before anything is computed.
        """
        self.mesh: Mesh | None = make_mesh(config.devices)
        self.data: ImageData = load_data(config) if data is None else data
        own = type(method) if isinstance(method, AbstractMethod) else method
        self._presets = (own or find_method(config.method)).presets(config.dataset, config.ipc)
        self.beginning: DistilledSet | None = beginning_of(config, self.data, beginning)
        config = with_its_settings(config, self.beginning)
        self.config: RunConfig = self.completed(config)
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
        check(self.config, self.data, self.recipe.method, make_network)
        if preprocessor is None and self.beginning is not None:
            preprocessor = self.beginning.preprocessor
        if preprocessor is None:
            preprocessor = Preprocessor.fit(self.data.train_images, zca=bool(self.config.zca))
        self.preprocessor: Preprocessor = preprocessor
        self.has_own_network: bool = make_network is not None
        self.method_name: str = config.method if own is None else own.__name__
        self.state: State = spread(self.mesh, self._first_state())
        self.prepared: Any = None
        self._is_chosen = False
        self.preparation_seconds: float = 0.0
        self.resident: Training | None = self._keep()
        self._ahead: dict[int, tuple[Training, Draws]] = {}
        self.iteration: int = 0
        self.spent: Spent = Spent()
        self._courses: list[Any] = []
        self._in_flight: Metrics | None = None
        self._step = meta_step if is_dispatched(self.mesh) else compiled_meta_step

    def completed(self, config: RunConfig) -> RunConfig:
        """`config` with every open setting filled in, as for these images and this method."""
        return resolve(config, self.data.image_shape, self.data.classes, self._presets)

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
    def seconds(self) -> float:
        return self.spent.seconds

    @property
    def total(self) -> int:
        """How many meta-iterations the config asks for."""
        assert self.config.iterations is not None
        return self.config.iterations

    @property
    def is_one_program(self) -> bool:
        """Whether a meta-iteration is compiled whole, as on an accelerator and several devices."""
        return self._step is compiled_meta_step

    def _first_state(self) -> State:
        begun = self.beginning
        if begun is not None:
            images, labels, temperature = begun.images, begun.labels, begun.log_temperature
        else:
            images, labels = initial_images(
                self.config, self.data, self.preprocessor, self.recipe.make_network
            )
            temperature = 0.0
        return first_state(
            self.recipe, self.config, jnp.asarray(images), labels, self.data.classes, temperature
        )

    @property
    def is_prepared(self) -> bool:
        """Whether what the method makes once of the real images is there, if it makes anything."""
        method = self.recipe.method
        return (
            self._is_chosen if not method.takes_steps
            else method.preparation is None or self.prepared is not None
        )  # fmt: skip

    def prepare(self, done: Callable[[], None] = lambda: None) -> None:
        """Let the method do what it does once: choose real images, or make something of all.
        `step` and `distilled` call it. `done` is called after each of `recipe.method.parts` parts.
        """
        if self.is_prepared:
            return
        began = time.monotonic()
        with self.spent.once():
            if self.recipe.method.takes_steps:
                found = prepare_once(self, done)
                return self.give_prepared(found, time.monotonic() - began)
            self._choose()
        self.preparation_seconds = time.monotonic() - began

    def _choose(self) -> None:
        rows, classes = choose(self), self.data.classes
        images = jnp.asarray(self.preprocessor(self.data.train_images[rows]))
        labels = self.data.train_labels[rows]
        chosen = first_state(self.recipe, self.config, images, labels, classes)
        self.state, self._is_chosen = spread(self.mesh, chosen), True

    def give_prepared(self, prepared: Any, seconds: float) -> None:
        """Take what `prepare` made, here or in a run `made_for` the same, in so many seconds."""
        self.prepared = spread(self.mesh, jax.tree.map(jnp.asarray, prepared))
        self.preparation_seconds = seconds
        if self.resident is not None:
            self.resident = replace(self.resident, prepared=self.prepared)
        self._ahead = {}

    def made_for(self) -> dict[str, Any]:
        """What decides on what `prepare` makes; equal for runs that can share it."""
        return made_for(self)

    def next_arguments(self) -> tuple[tuple[Recipe, Training], State, Draws]:
        """What the next meta-iteration is called with."""
        self.prepare()
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
        self.prepare()
        with self.spent.step():
            return self._take_step()

    def _take_step(self) -> Metrics:
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
        return metrics

    def check(self) -> None:
        """Raise where the state is not one to keep: to be called before it is saved or judged.

        Raises:
            Diverged: the loss, images, labels or temperature are not finite, or beyond all measure.
        """
        self._check_loss()
        if not is_sound(self.whole_state().coreset):
            raise diverged(self, "its distilled images")

    def _check_loss(self) -> None:
        if self._in_flight is not None and not np.isfinite(float(self._in_flight.loss)):
            raise diverged(self, f"its loss ({float(self._in_flight.loss)})")

    def whole_state(self) -> State:
        """The state on one device; with several processes, each must call."""
        return gather(self.mesh, self.state)

    def distilled(self) -> DistilledSet:
        """The coreset's moving average: what is evaluated and released; each process must call."""
        if not self.recipe.method.takes_steps:
            self.prepare()
        coreset = gather(self.mesh, self.state.averaged)
        return DistilledSet(
            images=np.asarray(coreset.images),
            labels=np.asarray(coreset.labels),
            classes=np.repeat(np.arange(self.data.classes, dtype=np.int32), self.config.ipc),
            class_names=self.data.class_names,
            preprocessor=self.preprocessor,
            log_temperature=float(coreset.log_temperature),
            flip=bool(self.config.flip),
            provenance=provenance(self),
        )

    def notes(self) -> dict[str, Any]:
        """What a checkpoint must hold beside `state`; JSON-able."""
        courses = [list(map(bool, c)) for c in self._courses]
        return self.spent.to_notes() | {"courses": courses, "arithmetic": arithmetic(self)}

    def restore(self, iteration: int, state: State, notes: dict[str, Any]) -> None:
        """Go back to a checkpoint, if its run can go on to the same bits."""
        check_arithmetic(self, iteration, notes)
        self.iteration, self.state = iteration, spread(self.mesh, state)
        self.spent, self._courses = Spent.from_notes(notes), notes["courses"]
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
        batch = Training(images, labels, self.data.classes, self._transform, self.prepared)
        return spread(self.mesh, batch), replace(draws, rows=jnp.arange(len(rows)))

    def real_batch(self, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Preprocessed training images, and their one-hot labels."""
        images, labels = self.data.train_images[rows], jnp.asarray(self.data.train_labels[rows])
        whole = Training(jnp.asarray(self.preprocessor(images)), labels, self.data.classes)
        return whole.images, jax.nn.one_hot(labels, self.data.classes, dtype=whole.images.dtype)

    def _draw(self, iteration: int) -> Draws:
        """The random choices of an iteration: a function of the seed and its number alone."""
        config = self.config
        assert config.pool_size is not None and config.pool_steps is not None
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
