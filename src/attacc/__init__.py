"""attacc: attention computed inside the memory, from a DRAM command to a user's latency.

The rooms, in reading order; imports point only towards the start of this list:
``models`` (what must be computed), ``workload`` (requests), ``hardware`` (what exists),
``mapping`` (where data goes), ``program`` (which commands are issued), ``timing`` (when they
happen), ``energy`` (what they cost), ``system`` (GPUs and AttAccs together), ``study``
(comparisons), ``report`` (rendering), ``integrations`` (other people's software on modelled
devices) and ``cli``.
"""

from importlib.metadata import version

__version__ = version("attacc")
