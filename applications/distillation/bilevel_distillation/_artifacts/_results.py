"""What a run and its evaluations found, and how a file holds it."""

from dataclasses import dataclass
from typing import Any

from ._reading import finite
from ._shown import ACCURACIES, accuracy_rows, lines, table


@dataclass(frozen=True)
class Accuracies:
    """Test accuracies, as fractions, of networks trained from scratch, one for each network.

    Attributes:
        distilled: of those trained on the distilled set.
        random_subset: of those trained on random subsets of the same size; None where none were.
    """

    distilled: tuple[float, ...]
    random_subset: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return lines(ACCURACIES, accuracy_rows(self.distilled, self.random_subset))

    def _repr_html_(self) -> str:
        return table("", ACCURACIES, accuracy_rows(self.distilled, self.random_subset))

    def to_json(self) -> dict[str, Any]:
        """As `results.json` holds them."""
        found = {"distilled": self.distilled, "random_subset": self.random_subset}
        return {name: list(values) for name, values in found.items() if values is not None}

    @classmethod
    def from_json(cls, value: Any) -> "Accuracies":
        """Those that `to_json` gave.

        Raises:
            ValueError: one is no accuracy, or there are none.
        """
        subset = value.get("random_subset")
        return cls(
            _accuracies("distilled", value.get("distilled")),
            None if subset is None else _accuracies("random_subset", subset),
        )


def _accuracies(name: str, found: Any) -> tuple[float, ...]:
    if not isinstance(found, list) or not found:
        raise ValueError(f"{name} is no list of accuracies")
    accuracies = tuple(map(finite, found))
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:
            raise ValueError(f"{name} holds {accuracy}, which is no accuracy")
    return accuracies


Judges = tuple[str, str]
"""A network's name and its normalisation."""


def evaluations_to_json(evaluations: dict[Judges, Accuracies]) -> list[dict[str, Any]]:
    """As `evaluations.json` holds them."""
    return [
        {"network": network, "norm": norm} | accuracies.to_json()
        for (network, norm), accuracies in evaluations.items()
    ]


def evaluations_from_json(rows: Any) -> dict[Judges, Accuracies]:
    if not isinstance(rows, list):
        raise ValueError("it is no list")
    return dict(map(_evaluation, rows))


def _evaluation(row: Any) -> tuple[Judges, Accuracies]:
    accuracies = Accuracies.from_json(row)
    network, norm = row["network"], row["norm"]
    if not isinstance(network, str) or not isinstance(norm, str):
        raise ValueError("an evaluation names no network")
    return (network, norm), accuracies
