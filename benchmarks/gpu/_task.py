"""What a stage is given: its sizes, the seconds it has left, and where its figures go."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _report import machine


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        width, batch, pool: of the distillations.
        pixels, images: so many of them, or all.
        most_ipc: images per class at most.
        gradient_batch: real images in the outer loss where errors are measured.
        gradient_ipc: images per class there.
        trained: steps that networks have been trained for.
        matrix: rows of the matrices whose product is timed.
        turns: of what is compared; `in_a_row`: meta-iterations timed together.
        iterations: of a distillation, where no speed is known yet; and at most.
        unrolled: training steps that BPTT takes, and those of them that it differentiates.
        networks, judge_steps: that judge; None: the protocol's steps.
        marks: shares of a distillation's time at which its set is put aside.
        small: parameters and rows of the problems whose gradients are judged.
        linear: the same of the linear problems that peers are timed on.
        wider, rows: of the networks there.
        held: how strongly the convolutions there are held where they begin.
        fitted: steps of descent towards their solutions.
    """

    width: int = 128
    batch: int = 1024
    pool: int = 30
    pixels: int | None = None
    images: int | None = None
    most_ipc: int = 50
    gradient_batch: int = 256
    gradient_ipc: tuple[int, ...] = (2, 20)
    trained: int = 50
    matrix: int = 8192
    turns: int = 7
    in_a_row: int = 20
    iterations: tuple[int, int] = (1000, 15_000)
    unrolled: tuple[int, int] = (60, 20)
    networks: int = 5
    judge_steps: int | None = None
    marks: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.6)
    small: tuple[int, int] = (10_000, 500)
    linear: tuple[tuple[int, int], ...] = (
        (100_000, 2000), (1_000_000, 500), (10_000_000, 50),
    )  # fmt: skip
    wider: int = 10
    rows: int = 1000
    held: float = 0.1
    fitted: int = 200


TINY = Sizes(
    width=2,
    batch=8,
    pool=2,
    pixels=8,
    images=300,
    most_ipc=2,
    gradient_batch=8,
    gradient_ipc=(1, 2),
    trained=2,
    matrix=64,
    turns=2,
    in_a_row=2,
    iterations=(12, 12),
    unrolled=(4, 2),
    networks=2,
    judge_steps=6,
    marks=(0.0,),
    small=(500, 100),
    linear=((2_000, 20),),
    wider=1,
    rows=10,
    held=0.3,
    fitted=30,
)


class OutOfTime(Exception):
    """The stage's time is up before what the message names."""


@dataclass
class Task:
    """A stage at work.

    Attributes:
        name: of the stage.
        out: the folder of results; `scratch`: what stages hand to one another.
        data: the folder of data sets.
        sizes: how large everything is.
        ends: when the stage has to be done, by the monotonic clock.
    """

    name: str
    out: Path
    scratch: Path
    data: Path
    sizes: Sizes
    ends: float
    _machine: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def begin(self, what: str, needs: float = 0.0) -> None:
        """Say what comes next.

        Raises:
            OutOfTime: it needs more seconds than there are.
        """
        if self.left < needs:
            raise OutOfTime(what)
        print(f"  {self.left:4.0f} s left: {what}", flush=True)

    def write(self, file: str, section: str, payload: dict[str, Any]) -> None:
        """Put a section into one of the result files, in place of what it was."""
        self._machine = self._machine or machine()
        merge(self.out / f"{file}.json", {"machine": self._machine, section: payload})


def merge(path: Path, sections: dict[str, Any]) -> None:
    """Write sections into a JSON file, which is whole at any moment."""
    held = json.loads(path.read_text()) if path.exists() else {}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(held | sections, indent=1) + "\n")
    unfinished.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A JSON file; nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


@contextmanager
def seconds_of(found: dict[str, Any], name: str) -> Iterator[None]:
    """Note how long the block takes."""
    began = time.perf_counter()
    yield
    found[name] = time.perf_counter() - began
