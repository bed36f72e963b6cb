"""Where the process begins: signals are taken care of before anything heavy is loaded.

Loading what the commands need takes a second, in which Ctrl-C must end the process as it does
later. So this module, and the packages it lies in, import what Python has loaded itself and
``signal``, and no more.
"""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
"""The exit code of an interrupt: 128 and the number of SIGINT, as shells report it."""

try:
    import signal  # the only one that takes milliseconds to load, until which it cannot be watched
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)

TYPE_CHECKING = False  # what ``typing`` has, which takes longer to load than all else here
if TYPE_CHECKING:
    from types import FrameType
    from typing import Final

AGAIN_S: Final = 2.0
"""After so many seconds a process that has not ended is stopped again."""
AT_ONCE_S: Final = 0.01
SIGNAL_BASE: Final = 128
"""What shells add to the number of the signal that ended a process, in its exit code."""


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end.

    It unwinds the stack, as an interrupt does, so that temporary files are removed and the
    terminal is left in order.
    """


class Signals:
    """The signals that ask the process to end, and the first that came.

    An exception that is raised between any two steps of a program does not always arrive: what is
    called back from C cannot raise, and modules in C turn it into an ImportError or a SystemError
    while they are loaded. So the signal is remembered, whatever exception arrives is taken for it,
    and if none arrives it is raised again.
    """

    def __init__(self) -> None:
        self.taken: int | None = None

    def watch(self) -> None:
        """Raise `Stopped` from now on when a signal comes, other than those that are ignored.

        A shell has its background commands ignore SIGINT, and ``nohup`` has them ignore SIGHUP.
        """
        for number in self._numbers():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)
        if hasattr(signal, "setitimer"):  # Windows has none
            signal.signal(signal.SIGALRM, self._raise)
        sys.unraisablehook = self._lost

    def ignore(self) -> None:
        """Let nothing interrupt the end of the process."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number in self._numbers():
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise `Stopped` if a signal came, whatever became of the exception that it raised."""
        if self.taken is not None:
            raise Stopped from None

    @property
    def exit_code(self) -> int:
        """What to exit with after the signal that came, or after an interrupt."""
        return SIGNAL_BASE + (self.taken or signal.SIGINT)

    @staticmethod
    def _numbers() -> list[signal.Signals]:
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
        return [number for number in signal.Signals if number.name in names]

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.taken is None:
            self.taken = number
        self._raise()

    def _raise(self, *_: object) -> None:
        self._remind(AGAIN_S)
        raise Stopped

    def _lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        if self.taken is None:
            sys.__unraisablehook__(unraisable)
        else:
            self._remind(AT_ONCE_S)

    @staticmethod
    def _remind(seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)


SIGNALS: Final = Signals()


def run() -> None:
    """Run the command line on the arguments of the process, and exit."""
    try:
        SIGNALS.watch()
        _keep_standard_descriptors()
        from attacc.cli.main import app
        from attacc.cli.output import HEARTBEAT

        try:
            with HEARTBEAT.beating():
                app()
        finally:
            SIGNALS.ignore()
    except BaseException:
        SIGNALS.ignore()
        if SIGNALS.taken is None:
            raise
        sys.exit(SIGNALS.exit_code)


def _keep_standard_descriptors() -> None:
    """Open what is closed of stdin, stdout and stderr, on nothing.

    Otherwise the next file that is opened takes the place, and what a library in C writes to
    stdout or stderr goes into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - it was closed
        sys.stderr = os.fdopen(2, "w", closefd=False)
