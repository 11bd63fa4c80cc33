"""What a run will take: memory from its compiled programs, time from its first meta-iterations."""

import time
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._config import RunConfig, resolve
from .._running import Call, held_by_one, recorded
from ..data import Preprocessor, whitened_values
from ..networks import AbstractNetwork
from ._distillation import Distillation
from ._inputs import load_data
from ._meta_step import compiled_meta_step
from ._once import rehearse_once
from ._pool import take

KEPT = ("_linearized", "_rows_of")
"""Parts whose results live until the meta-gradient is done, one for each block of images."""

TIMED = 3
PATIENCE = 8.0
"""Seconds that may be spent on further meta-iterations, once one is done."""

MOST_EXPECTED = 10.0
"""Seconds of a meta-iteration beyond which it is counted and not tried."""

EFFICIENCY = 0.5
"""What a network's passes reach of the speed of a matrix product, about."""

LONG = 3600.0
"""Seconds of a run that are worth a word at its start."""

SHORTER = 300.0
"""Seconds that the shorter run should take, which is then proposed."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        iterations: how many meta-iterations it has.
        seconds: of one of them.
        compilation: seconds until the first one is done.
        memory: bytes on a device at the peak of a meta-iteration. Where a method's inner problem
            is trained by Adam on a CPU, without what the toolkit's solvers take.
        resident: bytes of it that are there all the time: training images, coreset, pool.
        counted: whether a meta-iteration would have taken so long that its operations were counted
            in place of it; then the figures are rough.
        advice: settings that take minutes, where these take hours.
        preparation: seconds of what the method does once before (MTT's trajectories), told by a
            few steps of it; 0 where there is nothing, None where there is and nobody can tell.
        prepared: bytes of what that makes, which are resident.
    """

    iterations: int
    seconds: float
    compilation: float
    memory: int
    resident: int
    counted: bool = False
    advice: str | None = None
    preparation: float | None = 0.0
    prepared: int = 0

    def __str__(self) -> str:
        rough = ", roughly (counted, not tried)" if self.counted else ""
        advice = f"; {self.advice}" if self.advice else ""
        return (
            f"{self._before()}{self.iterations:,} meta-iterations of "
            f"{duration(self.seconds)}{rough}: "
            f"{duration(self.compilation + self.iterations * self.seconds)} with compilation, "
            f"without evaluation; at the peak {_size(self.memory)} of memory on a device, "
            f"{_size(self.resident)} of them resident{advice}"
        )

    def _before(self) -> str:
        if self.preparation == 0:
            return ""
        if self.preparation is None:
            return "what the method prepares once, whose time is not in these figures; then "
        return (
            f"{duration(self.preparation)} for what the method prepares once, "
            f"{_size(self.prepared)} of memory that stay, and which other runs of the same data "
            "can use; then "
        )


def estimate(config: RunConfig) -> Estimate:
    """Compile a run's programs and take its first meta-iterations; nothing is written.

    Raises:
        ValueError: settings or data that cannot work.
    """
    data = load_data(config)
    if resolve(config, data.image_shape, data.classes).zca:
        whitened_values(data.image_shape)
    # It takes as long with the images as they are, and to whiten them may take longer than that.
    plain = Preprocessor.fit(data.train_images, zca=False)
    distillation = Distillation(config, data, plain)
    before: dict[str, Any] = {}
    if distillation.recipe.method.preparation is not None:
        before = {"preparation": rehearse_once(distillation)}
        distillation.give_prepared(_stand_in(distillation), 0.0)
        before["prepared"] = _bytes(distillation.prepared)
    resident = _bytes((distillation.state, distillation.resident or distillation.prepared))
    if distillation.total == 0:
        return Estimate(0, 0.0, 0.0, resident, resident, **before)
    network = take(distillation.state.pool, jnp.asarray(0)).network
    expected = 0.0 if distillation.is_one_program else _expected(distillation, network)
    if expected > MOST_EXPECTED:
        held = held_by_one(network, data.image_shape, np.dtype("float32"))
        memory = resident + round(3 * held)
        found = _made(distillation, expected, 0.0, memory, resident, counted=True)
        return replace(found, **before)
    distillation.tune()
    began = time.monotonic()
    if distillation.is_one_program:
        memory = _of_one_program(distillation)
        _step(distillation)
        seconds = []
    else:
        with recorded() as calls:
            _step(distillation)
        memory = resident + _of_parts(calls)
        seconds = [sum(call.seconds for call in calls)]
    compilation = time.monotonic() - began
    if compilation < PATIENCE or not seconds:
        seconds = [_step(distillation) for _ in range(TIMED)]
    found = _made(distillation, float(np.median(seconds)), compilation, memory, resident)
    return replace(found, **before)


def _made(
    distillation: Distillation,
    seconds: float,
    compilation: float,
    memory: int,
    resident: int,
    counted: bool = False,
) -> Estimate:
    total = distillation.total
    advice = advise(distillation, seconds, total)
    return Estimate(total, seconds, compilation, memory, resident, counted, advice)


def advise(distillation: Distillation, seconds: float, iterations: int) -> str | None:
    """Settings with which a run takes minutes, where `iterations` more of it, of so many `seconds`
    each, take hours.
    """
    if seconds * iterations < LONG:
        return None
    config = distillation.config
    assert config.width is not None and config.batch_size is not None
    samples = len(distillation.data.train_images)
    n = config.ipc * distillation.data.classes
    width, batch = min(config.width, 32), min(config.batch_size, 256, samples)
    # The cost of a convolution grows with the square of the width, all else with the width.
    narrower = (width / config.width) ** 1.7
    fewer = (batch + 10 * n) / (min(config.batch_size, samples) + 10 * n)
    shorter = seconds * narrower * fewer
    count = int(min(iterations, max(100, SHORTER / shorter) // 50 * 50))
    small = " --resolution 32" if max(distillation.data.image_shape[:2]) > 64 else ""
    return (
        f"by these settings it takes about {duration(seconds * iterations)}, and about "
        f"{duration(max(shorter * count, 60.0))} with{small} --width {width} --batch-size {batch} "
        f"--iterations {count}, to begin with"
    )


def _expected(distillation: Distillation, network: AbstractNetwork) -> float:
    """Seconds of a meta-iteration, by the operations of a pass through the network."""
    config, data = distillation.config, distillation.data
    image = jnp.zeros((1, *data.image_shape), jnp.float32)
    forward: Any = eqx.filter_jit(lambda network, images: network(images))
    lowered = forward.lower(network, image)
    operations = float(lowered.lowered.cost_analysis()["flops"])
    n = config.ipc * data.classes * (2 if config.flip else 1)
    training = 3 * ((config.pool_steps or 0) + 1) / 2
    solving = 12 * config.adam_steps if distillation.recipe.has_rates else 4 * data.classes
    batch = min(config.batch_size or 1, len(data.train_images))
    return operations * (5 * batch + n * (20 + solving + training)) / (EFFICIENCY * _speed())


def _speed() -> float:
    """Operations a second of a matrix product here."""
    matrix = jnp.ones((1024, 1024), jnp.float32)
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        jax.block_until_ready(matrix @ matrix)
        taken.append(time.perf_counter() - began)
    return 2 * 1024**3 / min(taken)


def _stand_in(distillation: Distillation) -> PyTree:
    """Numbers in place of what the method would prepare, which may take long."""
    network = take(distillation.state.pool, jnp.asarray(0)).network
    shapes = distillation.recipe.method.prepared_like(network)
    key = jax.random.key(0)
    return jax.tree.map(lambda one: 0.1 * jax.random.normal(key, one.shape, one.dtype), shapes)


def _step(distillation: Distillation) -> float:
    began = time.monotonic()
    jax.block_until_ready(distillation.step())
    jax.block_until_ready(distillation.state.coreset)
    return time.monotonic() - began


def _of_one_program(distillation: Distillation) -> int:
    whole = compiled_meta_step.lower(*distillation.next_arguments())
    return _needs(whole.compile().compiled)


def _of_parts(calls: list[Call]) -> int:
    kept = sum(
        call.program.memory_analysis().output_size_in_bytes for call in calls if call.name in KEPT
    )
    return kept + max(_needs(call.program, with_arguments=False) for call in calls)


def _needs(program, *, with_arguments: bool = True) -> int:
    found = program.memory_analysis()
    arguments = found.argument_size_in_bytes - found.alias_size_in_bytes if with_arguments else 0
    return arguments + found.output_size_in_bytes + found.temp_size_in_bytes


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.2g} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
