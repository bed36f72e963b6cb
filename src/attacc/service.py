"""Public: loads, how engines are started, what users accept and felt, fleets, the highest rate."""

from attacc.serving.fleet import EngineUse
from attacc.serving.rates import FoundRate, find_rate
from attacc.serving.records.tables import check_outputs
from attacc.serving.records.timeline import TimelineWindow
from attacc.serving.results import Latencies, Spread, Targets
from attacc.serving.routing import RouterName
from attacc.serving.serve import Fleet, Server, Service
from attacc.serving.started import (
    EngineOptions,
    Overheads,
    PolicyName,
    Residence,
    policy_of,
    residence_of,
)
from attacc.workload.generated import Independent, Resampled
from attacc.workload.loads import lengths_of, lengths_source, synthetic_load

__all__ = [
    "EngineOptions",
    "EngineUse",
    "Fleet",
    "FoundRate",
    "Independent",
    "Latencies",
    "Overheads",
    "PolicyName",
    "Resampled",
    "Residence",
    "RouterName",
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
    "residence_of",
    "synthetic_load",
]
