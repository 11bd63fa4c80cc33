"""What a program costs on the card: compilation, memory, operations, and the card's own rate."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _whole_step import memory_of

LARGE = 1 << 16
"""Bytes from which a constant in a program is worth a word: folding it takes XLA its time."""

HOST = re.compile(r"callback|infeed|outfeed|send-to-host|recv-from-host", re.IGNORECASE)
CONSTANT = re.compile(r"constant dense(?:<[\"\[]|_resource<).*?> : tensor<(?P<type>[^>]+)>")
BITS = re.compile(r"(?:f|bf|i|ui|complex<f)(\d+)$")


def make_compiled(call: Any, *arguments: Any) -> dict[str, Any]:
    """Compile what `call(*arguments)` will run, and say what it takes; the call itself then
    compiles nothing.
    """
    began = time.perf_counter()
    lowered = call.lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    program = getattr(program, "compiled", program)
    text = getattr(lowered, "lowered", lowered).as_text()
    return {
        "tracing, s": traced - began,
        "compilation, s": done - traced,
        "predicted, bytes": sum(memory_of(program).values()),
        "large constants, bytes": [size for size in constants(text) if size >= LARGE],
        "host calls": len(HOST.findall(program.as_text() or "")),
    }


def constants(text: str) -> list[int]:
    """Bytes of each constant of a StableHLO program that is not one number repeated."""
    sizes = []
    for found in CONSTANT.finditer(text):
        *shape, element = found["type"].split("x")
        bits = BITS.search(element)
        sizes.append(int(np.prod([int(n) for n in shape])) * (int(bits[1]) if bits else 8) // 8)
    return sizes


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The programs that are compiled meanwhile."""
    names: list[str] = []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(about.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def peak_memory() -> int | None:
    """Bytes that this process has held on the card at once, for what XLA tried out while compiling
    too; None where the backend does not say.
    """
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def product_rate(size: int, precision: str, seconds: float = 0.5) -> float:
    """Operations a second of a product of two square matrices of random numbers."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size))

    @jax.jit
    def product(a, b):
        return a @ b / size**0.5  # so that its own result can go in again

    with jax.default_matmul_precision(precision):
        jax.block_until_ready(product(a, b))
        calls, began = 0, time.perf_counter()
        while calls < 3 or time.perf_counter() - began < seconds:
            for _ in range(3):
                a = product(a, b)
            jax.block_until_ready(a)
            calls += 3
        return 2 * size**3 * calls / (time.perf_counter() - began)


def waited(call: Callable[[], Any]) -> float:
    """Seconds of a call, its result being there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def distances(found: Any, exact: Any) -> float:
    """Relative distance of two pytrees, on the device that holds them, in float64."""
    with jax.enable_x64(True):
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
        wide = [(jnp.asarray(a, jnp.float64), jnp.asarray(b, jnp.float64)) for a, b in pairs]
        off = sum(float(jnp.sum((a - b) ** 2)) for a, b in wide)
        size = sum(float(jnp.sum(b**2)) for _, b in wide)
    return (off / size) ** 0.5
