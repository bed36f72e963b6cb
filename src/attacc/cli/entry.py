"""The start of the process, which handles signals before it loads anything heavy.

Loading the modules of a command takes a second. Ctrl-C must end the process during that second as
it does later. So this module and the packages around it import ``signal`` and the modules that
Python itself has loaded, and no others.
"""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
"""The exit code of an interrupt: 128 and the number of SIGINT, as shells report it."""

try:
    import signal  # takes milliseconds to load, and no signal can be watched before
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)

TYPE_CHECKING = False  # as in ``typing``, which takes longer to load than all other modules here
if TYPE_CHECKING:
    from types import FrameType
    from typing import Final

AGAIN_S: Final = 2.0
"""Seconds after which a process that has not ended gets `Stopped` again."""
AT_ONCE_S: Final = 0.01
"""Seconds after which a lost `Stopped` is raised again."""
SIGNAL_BASE: Final = 128
"""The exit code of a process that a signal ended is this number plus the number of the signal."""


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end.

    The exception unwinds the stack, as an interrupt does. So temporary files are removed, and the
    terminal is left in order.
    """


class Signals:
    """The signals that ask the process to end.

    A signal handler raises `Stopped` between two steps of the program. That exception does not
    always reach the top of the program: functions that C code calls cannot raise, and modules in C
    that are being loaded turn the exception into an ImportError or a SystemError. So the number of
    the signal is remembered. Any exception that reaches the top is then taken for the signal, and
    `Stopped` is raised again until one does.

    Attributes:
        taken: number of the first signal that came; None before any.
    """

    def __init__(self) -> None:
        self.taken: int | None = None

    def watch(self) -> None:
        """Raise `Stopped` from now on when a signal comes that the process does not ignore.

        A shell starts background commands with SIGINT ignored, and ``nohup`` starts a command with
        SIGHUP ignored.
        """
        for number in self._numbers():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)
        if hasattr(signal, "setitimer"):  # Windows has none
            signal.signal(signal.SIGALRM, self._raise)
        sys.unraisablehook = self._lost

    def ignore(self) -> None:
        """Ignore all signals, so that none interrupts the end of the process."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number in self._numbers():
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come, even if its first exception was lost."""
        if self.taken is not None:
            raise Stopped from None

    def keep(self) -> bool:
        """Let a command that was interrupted tell what it has done; a further signal ends it.

        Returns:
            Whether it may: other signals than an interrupt end a command at once.
        """
        if self.taken != signal.SIGINT:
            return False
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        return True

    @property
    def exit_code(self) -> int:
        """Exit code after the signal that came, or after an interrupt."""
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
    """Open those of stdin, stdout and stderr that are closed, on the null device.

    Otherwise the next file that is opened gets the free descriptor, and a library in C that writes
    to stdout or stderr writes into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - it was closed
        sys.stderr = os.fdopen(2, "w", closefd=False)
