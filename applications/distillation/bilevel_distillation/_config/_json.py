"""Settings as a run's folder holds them."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import cattrs
from cattrs.errors import ClassValidationError

from ._run import RunConfig
from ._types import Devices

NEW_NAMES = {
    "tolerance": "rtol",
    "residual": "adjoint_rtol",
    "max_cg_steps": "cg_max_steps",
    "most_pool_steps": "pool_max_steps",
}
"""What settings are called that earlier versions wrote by another name."""


def to_json(config: RunConfig) -> str:
    """Readable, and enough to run it again."""
    return json.dumps({**asdict(config), "out": str(config.out)}, indent=2) + "\n"


def from_json(text: str, where: Path) -> RunConfig:
    """The config that a run's folder holds.

    Raises:
        ValueError: a setting that is unknown or of another type.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    converter.register_structure_hook(Devices, _devices)
    try:
        return converter.structure(_in_new_words(json.loads(text)), RunConfig)
    except Exception as error:  # whatever a damaged file makes json and cattrs say
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ClassValidationError):
            reason = "; ".join(cattrs.transform_error(error, format_exception=_say))
        raise ValueError(
            f"{where} is not a run's config ({reason}): restore it, or give another --out."
        ) from error


def _in_new_words(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as earlier versions wrote them: what is linear was called exact, one tolerance was
    that of errors and residuals, and some names were others.
    """
    if settings.get("solve") == "exact":
        settings["solve"] = "linear"
    if "tolerance" in settings:
        settings.setdefault("residual", settings["tolerance"])
    return {NEW_NAMES.get(name, name): value for name, value in settings.items()}


def _devices(value: Any, _: Any) -> Devices:
    if value != "all" and type(value) is not int:
        raise ValueError(f"devices={value!r} is no number of devices: give e.g. 1, or all.")
    return value


def _say(error: BaseException, kind: Any) -> str:
    """What cattrs says, and what a setting's own check says."""
    if type(error) is ValueError and any(word in str(error) for word in ("give", "choose")):
        return str(error)
    return cattrs.v.format_exception(error, kind)


def differences(asked: RunConfig, found: RunConfig) -> list[str]:
    """Settings in which two configs differ, `out`, the time between checkpoints and the devices
    aside."""
    return [
        f"{f.name} is {getattr(found, f.name)!r} there and {getattr(asked, f.name)!r} here"
        for f in fields(asked)
        if f.name not in ("out", "checkpoint_seconds", "devices")
        and getattr(asked, f.name) != getattr(found, f.name)
    ]
