"""One hypergradient against jaxopt's and optimistix's, on problems that fill a card."""

import warnings
from typing import Any

import jax
from _peers_contestants import installed, versions
from peers import measure, show

from ._problems import ERROR, large, solved
from ._task import Task

FILE = "gpu_peers"
PEERS = ("jaxopt", "optimistix")


def others(task: Task) -> None:
    """Every contestant has the same theta and the tolerance at which conjugate gradients in float64
    come within the error.
    """
    warnings.filterwarnings("ignore", "JAXopt is no longer maintained")
    results: list[dict[str, Any]] = []
    for make in large(task.sizes):
        task.begin("a problem and its solution", needs=6)
        with jax.default_matmul_precision("float32"):
            problem = make()
            try:
                problem, reference = solved(problem)
            except RuntimeError as error:  # of a network that is at no minimum
                results.append({"problem": problem.name, "failed": str(error), "rows": []})
                continue
            task.begin(f"{problem.name}: {problem.size:,} parameters", needs=4)
            rows = measure(problem, reference, installed(PEERS), task.sizes.turns)
        results.append(show(problem, reference, rows))
        task.write(FILE, "peers", {
            "error": ERROR, "versions": versions(PEERS), "results": results
        })  # fmt: skip
