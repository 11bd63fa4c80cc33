"""What the README of a data folder says of its files: patterns, which stay inside the folder."""

from pathlib import Path, PurePosixPath
from typing import Any

from ._listing import Listing, is_inside

CARD = "README.md"


def read_patterns(listing: Listing, name: str) -> dict[str, list[str]] | str | None:
    """The files of each split, or the folder that holds the splits, as the front matter of the
    README tells; None if it does not.

    Raises:
        ValueError: the README leads out of the folder, names no file, or has several
            configurations and none by default.
    """
    config = _choose(_read_configs(listing, name), name)
    if config is None:
        return None
    folder = str(config.get("data_dir") or ".")
    given = config.get("data_files")
    if given is None:
        _check_pattern(folder, name)
        return folder
    if isinstance(given, str) or (given and all(isinstance(one, str) for one in given)):
        given = [{"split": "train", "path": given}] if not isinstance(given, dict) else given
    if isinstance(given, dict):
        given = [{"split": split, "path": path} for split, path in given.items()]
    found: dict[str, list[str]] = {}
    for one in given:
        patterns = one["path"] if isinstance(one["path"], list) else [one["path"]]
        for pattern in patterns:
            _check_pattern(str(pattern), name)
            files = _matching(listing, str(PurePosixPath(folder, str(pattern))), name)
            found.setdefault(str(one["split"]), []).extend(files)
    return {split: sorted(set(files)) for split, files in found.items()}


def _read_configs(listing: Listing, name: str) -> list[dict[str, Any]]:
    import yaml

    if CARD not in listing.files:
        return []
    text = (listing.root / CARD).read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return []
    try:
        header = yaml.safe_load(text.split("---", 2)[1])
        configs = header.get("configs", []) if isinstance(header, dict) else []
        if not all(_is_config(config) for config in configs):
            raise ValueError("`configs` is no list of data_files")
    except (yaml.YAMLError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{CARD} of dataset {name!r} cannot be understood ({reason}): mend its header, or "
            "remove it."
        ) from error
    return configs


def _is_config(config: Any) -> bool:
    if not isinstance(config, dict) or not {"data_files", "data_dir"} & set(config):
        return False
    files = config.get("data_files") or "**"
    if isinstance(files, list) and not all(isinstance(one, str) for one in files):
        return all(isinstance(one, dict) and {"split", "path"} <= set(one) for one in files)
    return isinstance(files, str | list | dict)


def _choose(configs: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The only configuration, or the one that is called default or is marked as such."""
    if len(configs) < 2:
        return configs[0] if configs else None
    marked = [c for c in configs if c.get("default") or c.get("config_name") == "default"]
    if len(marked) != 1:
        names = ", ".join(repr(config.get("config_name")) for config in configs)
        raise ValueError(
            f"{CARD} of dataset {name!r} has several configurations, {names}: mark the one to read "
            "with `default: true`."
        )
    return marked[0]


def _check_pattern(pattern: str, name: str) -> None:
    if ".." in PurePosixPath(pattern).parts or pattern.startswith(("/", "~")) or "://" in pattern:
        raise ValueError(
            f"{CARD} of dataset {name!r} names the files {pattern!r}, outside of the folder: put "
            "the files there, and mend the README."
        )


def _matching(listing: Listing, pattern: str, name: str) -> list[str]:
    _check_pattern(pattern, name)
    if pattern in listing.files:  # whatever characters are in its name
        return [pattern]
    if pattern in listing.folders:
        pattern += "/**"
    pattern = pattern if not pattern.endswith("**") else pattern + "/*"
    paths = {path for path in listing.root.glob(pattern) if is_inside(path, listing.root)}
    found = {_relative(path, listing.root) for path in paths} & set(listing.files) - {CARD}
    if not found:
        raise ValueError(
            f"{CARD} of dataset {name!r} names the files {pattern!r}, and none is there: mend the "
            "README, or remove it."
        )
    return sorted(found)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
