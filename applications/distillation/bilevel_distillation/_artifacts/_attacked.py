"""What an attack found, and how a run's folder holds it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from .._config import Kind
from ._figures import in_words, percent, spread
from ._reading import finite
from ._shown import lines, table

TRAINED_ON: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class AttackSettings:
    """What an attack was made with: one with others does not go on from it.

    Attributes:
        real_images: how many the run saw.
        members: how many of them were asked about, beside as many held-out ones.
        network: the kind of network that was attacked.
        norm: its normalisation.
        steps: training steps on the distilled set and on random subsets.
        real_steps: and on the real images.
        seed: of the networks and the attackers.
    """

    real_images: int | None
    members: int
    network: str | None
    norm: str | None
    steps: int | None
    real_steps: int | None
    seed: int | None


@dataclass(frozen=True)
class AttackedNetwork:
    """What a network gave away.

    Attributes:
        test_accuracy: a fraction.
        auc: the area under the curve of each attacker, by its name: 0.5 is guessing, 1 is knowing.
    """

    test_accuracy: float
    auc: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Any) -> "AttackedNetwork":
        auc = {name: finite(area) for name, area in value["auc"].items()}
        return cls(finite(value["test_accuracy"]), auc)


@dataclass(frozen=True)
class AttackResults:
    """What an attack found of each network, by what the networks were trained on.

    Attributes:
        settings: what it was made with.
        distilled: networks trained on the distilled set.
        random_subset: on random subsets of the same size.
        real_data: on all real images that the run saw.
    """

    settings: AttackSettings
    distilled: tuple[AttackedNetwork, ...] = ()
    random_subset: tuple[AttackedNetwork, ...] = ()
    real_data: tuple[AttackedNetwork, ...] = ()

    def _rows(self) -> list[list[str]]:
        """A row for each attacker, and one for the test accuracy; a column for each kind."""
        kinds = [self.of(kind) for kind in self.kinds]
        names = dict.fromkeys(name for networks in kinds for one in networks for name in one.auc)
        rows = [
            [in_words(name), *(spread([one.auc[name] for one in networks]) for networks in kinds)]
            for name in names
        ]
        found = [[one.test_accuracy for one in networks] for networks in kinds]
        return [*rows, ["test accuracy", *map(percent, found)]]

    def _header(self) -> tuple[str, ...]:
        return ("attacker, AUC", *(_NAMES[kind] for kind in self.kinds))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the networks that are here were trained on."""
        return tuple(kind for kind in TRAINED_ON if self.of(kind))

    def __str__(self) -> str:
        return lines(self._header(), self._rows())

    def _repr_html_(self) -> str:
        return table("", self._header(), self._rows())

    def of(self, kind: Kind) -> tuple[AttackedNetwork, ...]:
        """The networks trained on one kind of data."""
        return getattr(self, kind)

    def with_one_more(self, kind: Kind, found: AttackedNetwork) -> "AttackResults":
        return replace(self, **{kind: (*self.of(kind), found)})

    def to_json(self) -> dict[str, Any]:
        """As `attack.json` holds them."""
        kinds = {kind: [asdict(one) for one in self.of(kind)] for kind in TRAINED_ON}
        return {"settings": asdict(self.settings)} | kinds

    @classmethod
    def from_json(cls, value: Any) -> "AttackResults":
        """Those that `to_json` gave.

        Raises:
            ValueError: they are something else.
        """
        held = value["settings"]
        if type(held["members"]) is not int:
            raise ValueError("members is no number")
        settings = AttackSettings(**{f.name: held.get(f.name) for f in fields(AttackSettings)})
        kinds = {kind: _networks(kind, value[kind]) for kind in TRAINED_ON}
        if len({tuple(one.auc) for networks in kinds.values() for one in networks}) > 1:
            raise ValueError("attackers differ")
        return cls(settings, **kinds)


_NAMES: dict[Kind, str] = {
    "distilled": "distilled set",
    "random_subset": "random subset, same size",
    "real_data": "real data",
}


def _networks(kind: Kind, found: Any) -> tuple[AttackedNetwork, ...]:
    if not isinstance(found, list):
        raise ValueError(f"{kind} is no list")
    return tuple(map(AttackedNetwork.from_json, found))
