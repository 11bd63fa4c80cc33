"""Who hears how a run goes."""

import logging

log = logging.getLogger(__name__)


class Reporter:
    """Who hears how a run goes: this one says nothing, `ConsoleReporter` shows it."""

    def say(self, message: str) -> None:
        """A message to read."""

    def warn(self, message: str) -> None:
        """A message of something that went wrong, and did not end the run."""
        self.say(message)

    def begin(self, description: str, total: int, done: int) -> None:
        """A stretch of work begins, `done` of its `total` steps already behind it."""

    def advance(self, count: int, **figures: float) -> None:
        """`count` more steps are done; `figures` are what to show of the last one."""

    def end(self) -> None:
        """The stretch of work is over."""


class Quiet(Reporter):
    """Where nobody listens, the log hears of what went wrong."""

    def warn(self, message: str) -> None:
        log.warning("%s", message)
