"""Where the command line begins: it says so at once, and then loads what takes a while."""

import contextlib
import os
import sys

from . import __version__

_SILENT = ("-h", "--help", "--version")
_LONG = ("run", "sweep", "evaluate", "attack")


def main() -> None:
    """The command `bilevel-distill`."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"bilevel-distill {__version__}")
        return
    asks = not arguments or any(one in _SILENT or one.startswith("--tyro-") for one in arguments)
    starting = f"bilevel-distill {__version__}: starting"
    if not asks and sys.stderr is not None and sys.stderr.isatty():
        print(starting, file=sys.stderr, flush=True)
    elif not asks and arguments[0] in _LONG and sys.stdout is not None:
        with contextlib.suppress(OSError):  # a closed or full one: nothing stays in a buffer
            os.write(1, f"{starting}\n".encode())
    from ._app import main as run

    run()
