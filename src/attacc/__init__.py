"""attacc: attention computed inside the memory, from a DRAM command to a user's latency.

The rooms, in reading order; imports point only towards the start of this list:
``models`` (what must be computed), ``workload`` (requests), ``hardware`` (what exists),
``mapping`` (where data goes), ``program`` (which commands are issued), ``timing`` (when they
happen), ``energy`` (what they cost), ``system`` (GPUs and AttAccs together), ``study``
(comparisons), ``report`` (rendering), ``integrations`` (other people's software on modelled
devices) and ``cli``.
"""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: that loads more than the command line's start."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("attacc")
