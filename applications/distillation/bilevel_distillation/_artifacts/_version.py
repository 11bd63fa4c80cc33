"""Which version this is."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """As it was installed; "not installed" where the package is used from its source tree."""
    try:
        return version("bilevel-distillation")
    except PackageNotFoundError:
        return "not installed"
