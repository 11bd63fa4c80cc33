"""What a run will take: memory from its compiled programs, time from its first meta-iterations."""

import time
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ._config import RunConfig
from ._distillation import Distillation
from ._meta_step import compiled_meta_step
from ._parts import Call, recorded

KEPT = ("_linearized", "_rows_of")
"""Parts whose results live until the meta-gradient is done, one for each block of images."""

TIMED = 3


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
    """

    iterations: int
    seconds: float
    compilation: float
    memory: int
    resident: int

    def __str__(self) -> str:
        return (
            f"{self.iterations:,} meta-iterations of {_duration(self.seconds)}: "
            f"{_duration(self.compilation + self.iterations * self.seconds)} with compilation, "
            f"without evaluation; at the peak {_size(self.memory)} of memory on a device, "
            f"{_size(self.resident)} of them resident"
        )


def estimate(config: RunConfig) -> Estimate:
    """Compile a run's programs and take its first meta-iterations; nothing is written.

    Raises:
        ValueError: settings or data that cannot work.
    """
    distillation = Distillation(config)
    distillation.tune()
    resident = _bytes((distillation.state, distillation.resident or ()))
    began = time.monotonic()
    if distillation.is_one_program:
        memory = _of_one_program(distillation)
        _step(distillation)
    else:
        with recorded() as calls:
            _step(distillation)
        memory = resident + _of_parts(calls)
    compilation = time.monotonic() - began
    seconds = [_step(distillation) for _ in range(TIMED)]
    return Estimate(distillation.total, float(np.median(seconds)), compilation, memory, resident)


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


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
