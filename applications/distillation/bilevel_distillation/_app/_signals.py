"""Signals that ask a run to stop."""

import signal


class Signals:
    """Remembers that Ctrl-C or a termination signal came, or that the terminal was closed, instead
    of stopping in mid-step.
    """

    def __init__(self):
        self.caught = False

    def __enter__(self) -> "Signals":
        self._before = {}
        try:
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # there is no SIGHUP on Windows
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    self._before[number] = signal.signal(number, self._catch)
        except ValueError:  # not the main thread: signals are somebody else's
            pass
        return self

    def _catch(self, number, frame) -> None:
        self.caught = True

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
