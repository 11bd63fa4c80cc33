"""Where the command line begins: it says so at once, and then loads what takes a while."""

import sys

from . import __version__

_SILENT = ("-h", "--help", "--version")


def main() -> None:
    """The command `bilevel-distill`."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"bilevel-distill {__version__}")
        return
    asks = not arguments or any(one in _SILENT or one.startswith("--tyro-") for one in arguments)
    if not asks and sys.stderr is not None and sys.stderr.isatty():
        print(f"bilevel-distill {__version__}: starting", file=sys.stderr, flush=True)
    from ._app import main as run

    run()
