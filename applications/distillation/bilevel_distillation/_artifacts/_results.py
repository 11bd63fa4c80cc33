"""What a run and its evaluations found, and how a file holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Judges(NamedTuple):
    """Which networks judged, and how they were trained.

    Attributes:
        network: their name.
        norm: their normalisation.
        judge: the name of the two in the literature, if they were asked for by it.
        labels: soft or hard.
        recipe: common, or own.
        select: whether held-out training images said when a training was to end.
    """

    network: str
    norm: str
    judge: str | None = None
    labels: str = "soft"
    recipe: str = "common"
    select: bool = False

    def __str__(self) -> str:
        return ", ".join([self.network, f"norm: {self.norm}", *self.further])

    @property
    def further(self) -> list[str]:
        """What is not as usual, in words."""
        return [
            *([f"judge: {self.judge}"] if self.judge else []),
            *([f"{self.labels} labels"] if self.labels != "soft" else []),
            *([f"{self.recipe} recipe"] if self.recipe != "common" else []),
            *(["selected on held-out images"] if self.select else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """What is not as usual is left out."""
        usual = Judges("", "")
        return {n: v for n, v in self._asdict().items() if v != getattr(usual, n)}


def evaluations_to_json(evaluations: Mapping[Judges, Accuracies]) -> list[dict[str, Any]]:
    """As `evaluations.json` holds them."""
    return [judges.to_json() | accuracies.to_json() for judges, accuracies in evaluations.items()]


def evaluations_from_json(rows: Any) -> dict[Judges, Accuracies]:
    if not isinstance(rows, list):
        raise ValueError("it is no list")
    return dict(map(_evaluation, rows))


def _evaluation(row: Any) -> tuple[Judges, Accuracies]:
    accuracies = Accuracies.from_json(row)
    judges = Judges(**{name: row[name] for name in Judges._fields if name in row})
    if not isinstance(judges.network, str) or not isinstance(judges.norm, str):
        raise ValueError("an evaluation names no network")
    if not all(isinstance(one, str | bool | None) for one in judges):
        raise ValueError("an evaluation says of its judges what is no word")
    return judges, accuracies
