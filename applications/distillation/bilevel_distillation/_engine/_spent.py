"""What a distillation has cost so far."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .._running import peak_memory


@dataclass
class Spent:
    """Time and memory.

    Attributes:
        seconds: in meta-iterations.
        processor_seconds: of all processors together, in them and in what is done once.
        peak: bytes at the most, as far as it has been looked at.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak: int | None = None

    @contextmanager
    def once(self) -> Iterator[None]:
        """Count what the processors do in the block, which is done once."""
        began = time.process_time()
        yield
        self.processor_seconds += time.process_time() - began

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count the block, a meta-iteration."""
        began = time.monotonic()
        with self.once():
            yield
        self.seconds += time.monotonic() - began

    def look(self) -> int | None:
        """Bytes at the peak until now."""
        self.peak = max(self.peak or 0, peak_memory() or 0) or None
        return self.peak

    def to_notes(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "peak_memory": self.look(),
        }

    @staticmethod
    def from_notes(notes: dict[str, Any]) -> "Spent":
        """From a checkpoint, which of the version before has seconds alone."""
        return Spent(
            notes["seconds"], notes.get("processor_seconds", 0.0), notes.get("peak_memory")
        )
