"""Public: command traces in text form, played, written and audited."""

from attacc.study.command_traces import (
    BuiltTrace,
    CheckedLog,
    TraceRun,
    build_trace,
    check_log,
    play_traces,
)

__all__ = ["BuiltTrace", "CheckedLog", "TraceRun", "build_trace", "check_log", "play_traces"]
