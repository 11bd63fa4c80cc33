"""What networks make of distilled sets, and what those sets have cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, SupportsIndex, overload

import numpy as np

from .._artifacts import Accuracies, Judges
from ._ranking import Ranking


@dataclass(frozen=True)
class Cost:
    """What it took to make a set, as far as the set says.

    Attributes:
        seconds: of meta-iterations and of what is done once.
        processor_seconds: the same, of all processors together.
        peak_memory: bytes on the device, or of the process on a CPU.
    """

    seconds: float | None = None
    processor_seconds: float | None = None
    peak_memory: float | None = None

    @staticmethod
    def of(provenance: Mapping[str, Any]) -> "Cost | None":
        """None where nothing is known."""
        known = {name: provenance.get(name) for name in Cost.__dataclass_fields__}
        numbers = {
            name: float(value)
            for name, value in known.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        return Cost(**numbers) if numbers else None

    def __str__(self) -> str:
        said = []
        if self.seconds is not None:
            said.append(f"{self.seconds:.0f} s")
        if self.processor_seconds is not None:
            said.append(f"{self.processor_seconds:.0f} s of processors")
        if self.peak_memory is not None:
            said.append(f"{self.peak_memory / 1e6:.0f} MB")
        return ", ".join(said)

    def to_json(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class OfSet:
    """What networks make of one set.

    Attributes:
        path: where it is.
        distilled: their test accuracies, as fractions.
        held_out: their accuracies on held-out training images; None where nothing was selected.
        cost: what making it took; None where the set does not say.
    """

    path: str
    distilled: tuple[float, ...]
    held_out: tuple[float, ...] | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class Evaluation:
    """What networks of one kind make of distilled sets.

    Attributes:
        network: the kind.
        norm: its normalisation.
        accuracies: of those networks, over all sets; of random subsets only where they were asked
            for.
        ranking: the scores of DD-Ranking; None where they were not asked for.
        judge: the name by which the kind was asked for, if it has one.
        labels: that the networks were trained on, soft or hard.
        recipe: common, or own.
        select: whether held-out training images said when a training was to end.
        sets: what is known of each set.
    """

    network: str
    norm: str
    accuracies: Accuracies
    ranking: Ranking | None = None
    judge: str | None = None
    labels: str = "soft"
    recipe: str = "common"
    select: bool = False
    sets: tuple[OfSet, ...] = ()

    @staticmethod
    def over(found: "Sequence[Evaluation]") -> "Evaluation":
        """One over several sets, each judged by the same kind of networks."""
        subsets = [one.accuracies.random_subset or () for one in found]
        accuracies = Accuracies(
            tuple(a for one in found for a in one.accuracies.distilled),
            tuple(a for of in subsets for a in of) or None,
        )
        sets = tuple(of for one in found for of in one.sets)
        return replace(found[0], accuracies=accuracies, ranking=None, sets=sets)

    @property
    def judges(self) -> Judges:
        """Which networks these are, as `evaluations.json` has it."""
        return Judges(self.network, self.norm, self.judge, self.labels, self.recipe, self.select)

    @property
    def best(self) -> OfSet | None:
        """The set that is best on held-out training images; None where nothing was selected."""
        known = [one for one in self.sets if one.held_out is not None]
        return max(known, key=lambda one: np.mean(one.held_out or 0.0)) if known else None

    def __str__(self) -> str:
        first = ", ".join([self.network, f"norm {self.norm}", *self.judges.further])
        scores = [] if self.ranking is None else [str(self.ranking)]
        return "\n".join([first, str(self.accuracies), *scores])

    def to_json(self) -> dict[str, Any]:
        ranking = {} if self.ranking is None else {"ranking": asdict(self.ranking)}
        return self.judges.to_json() | self.accuracies.to_json() | ranking


class Evaluations(list[Evaluation]):
    """One for each network with each normalisation. Of a single one the accuracies can be had by
    their name in `evaluations.json`, too: `found["distilled"]`.
    """

    @overload
    def __getitem__(self, at: SupportsIndex) -> Evaluation: ...

    @overload
    def __getitem__(self, at: slice) -> list[Evaluation]: ...

    @overload
    def __getitem__(self, at: str) -> Any: ...

    def __getitem__(self, at: Any) -> Any:
        if not isinstance(at, str):
            return super().__getitem__(at)
        if len(self) != 1:
            raise KeyError(f"{at!r} of which of {len(self)} evaluations: take one by its number.")
        return super().__getitem__(0).to_json()[at]
