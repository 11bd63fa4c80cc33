"""What an attack left in a run's folder."""

from typing import Any

from ._folder import RunFolder
from ._reading import finite

TRAINED_ON = ("distilled", "random_subset", "real_data")


def read_attack(folder: RunFolder) -> dict[str, Any] | None:
    """What an attack left in a run's folder, if there was one.

    Raises:
        ValueError: it is damaged, or something else.
    """
    if not folder.attack.exists():
        return None
    remedy, verdict = "delete it, and attack again", "is not what an attack leaves"
    return folder.read_json(folder.attack, _check_attack, remedy, verdict)


def _check_attack(results: Any) -> None:
    if type(results["settings"]["members"]) is not int:
        raise ValueError("members is no number")
    for kind in TRAINED_ON:
        if not isinstance(results[kind], list):
            raise ValueError(f"{kind} is no list")
        for one in results[kind]:
            for figure in (one["test_accuracy"], *one["auc"].values()):
                finite(figure)
            if one["auc"].keys() != results[TRAINED_ON[0]][0]["auc"].keys():
                raise ValueError("attackers differ")
