"""Classes by name: those of a table, those that other packages bring, and any by its path."""

import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def brought(group: str) -> dict[str, EntryPoint]:
    """What installed packages bring as entry points of a group, by name."""
    return {point.name: point for point in entry_points(group=group)}


def check_name(setting: str, value: str, names: Iterable[str], group: str) -> None:
    """Raise unless a name is one of these, is brought by a package, or is the path of a class.

    Raises:
        ValueError: it is none of them.
    """
    known = [*names, *sorted(brought(group))]
    if value not in known and ":" not in value:
        raise ValueError(
            f"{setting}={value!r} is not known: choose one of {', '.join(known)}, or name a class "
            "of your own, package.module:Class."
        )


def find(setting: str, name: str, table: Mapping[str, Any], group: str) -> Any:
    """What has that name.

    Raises:
        ValueError: nothing has, or it cannot be imported.
    """
    if name in table:
        return table[name]
    check_name(setting, name, table, group)
    points = brought(group)
    try:
        if name in points:
            return points[name].load()
        module, _, path = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        return found
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{setting}={name!r} cannot be imported ({error}): name a class that Python finds, "
            "package.module:Class."
        ) from error
