"""Public: loads, how engines are started, what users accept and felt, and the highest rate."""

from attacc.serving.rates import FoundRate, find_rate
from attacc.serving.records.tables import check_outputs
from attacc.serving.records.timeline import TimelineWindow
from attacc.serving.results import Latencies, Spread, Targets
from attacc.serving.serve import Server, Service
from attacc.serving.started import EngineOptions, PolicyName, policy_of
from attacc.workload.generated import Independent, Resampled
from attacc.workload.loads import lengths_of, lengths_source, synthetic_load

__all__ = [
    "EngineOptions",
    "FoundRate",
    "Independent",
    "Latencies",
    "PolicyName",
    "Resampled",
    "Server",
    "Service",
    "Spread",
    "Targets",
    "TimelineWindow",
    "check_outputs",
    "find_rate",
    "lengths_of",
    "lengths_source",
    "policy_of",
    "synthetic_load",
]
