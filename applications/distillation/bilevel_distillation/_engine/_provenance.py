"""How a set was made, in words that JSON knows, and what tells that two runs can share work."""

from typing import TYPE_CHECKING, Any

from .._artifacts import own_version, sha256_of

if TYPE_CHECKING:
    from ._distillation import Distillation


def provenance(distillation: "Distillation") -> dict[str, Any]:
    """How the set that a distillation has by now was made. `seconds`, and those of all
    processors together, are of all that it took, what the set before it took included, of which
    `begun_from` tells. `peak_memory`, in bytes, is of the device, or on a CPU of the process.
    """
    config, begun = distillation.config, distillation.beginning
    seconds = distillation.seconds + distillation.preparation_seconds
    processor_seconds = distillation.spent.processor_seconds
    chain: dict[str, Any] = {}
    if config.held_out is not None:
        chain["held_out"] = config.held_out
    if begun is not None:
        chain["begun_from"] = begun.provenance
        seconds += _number(begun.provenance.get("seconds"))
        processor_seconds += _number(begun.provenance.get("processor_seconds"))
    return {
        "dataset": distillation.data.name,  # of a local folder, the last part of its path
        "method": distillation.method_name,
        "solve": config.solve,
        "ipc": config.ipc,
        "seed": config.seed,
        "iterations": distillation.iteration,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "peak_memory": distillation.spent.look(),
        **network_of(distillation),
        "version": own_version(),
        **chain,
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def network_of(distillation: "Distillation") -> dict[str, Any]:
    """The network that distils."""
    if distillation.has_own_network:
        return {"network": type(distillation.state.pool.networks).__name__}
    names = ("width", "depth", "padding", "norm")
    sizes = {name: getattr(distillation.config, name) for name in names}
    return {"network": "ConvNet"} | sizes


def made_for(distillation: "Distillation") -> dict[str, Any]:
    """What decides on what a method prepares."""
    fitted = distillation.preprocessor.to_arrays()
    content = b"".join(fitted[name].tobytes() for name in sorted(fitted))
    return {
        "data": distillation.data.fingerprint()["training images"],
        "preprocessing": sha256_of(content),
        "method": distillation.method_name,
        "smooth": distillation.config.smooth,
        **network_of(distillation),
        **(distillation.recipe.method.preparation or {}),
    }


def arithmetic(distillation: "Distillation") -> int:
    """The way in which this version comes to the last digits of the gradient."""
    return distillation.recipe.method.arithmetic(distillation.state.coreset)


def check_arithmetic(distillation: "Distillation", iteration: int, notes: dict[str, Any]) -> None:
    """Raise where a checkpoint is of a version that came to other last digits."""
    if notes.get("arithmetic", 1) != arithmetic(distillation):
        raise ValueError(
            f"the checkpoint of iteration {iteration} is of a version of bilevel-distillation that "
            "came to other last digits, so the run could not go on to the same bits: go on with "
            "that version, or give another --out to begin anew."
        )
