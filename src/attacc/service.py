"""Public: loads, how engines are started, what users accept and felt, fleets, the highest rate."""

from attacc.serving.engines.policy import Call, Policy, Refusal, Request
from attacc.serving.fleet import EngineUse
from attacc.serving.rates import FoundRate, find_rate
from attacc.serving.records.tables import check_outputs
from attacc.serving.records.timeline import TimelineWindow
from attacc.serving.results import Latencies, Spread, Targets
from attacc.serving.routing import RouterName
from attacc.serving.serve import Fleet, Server, Service
from attacc.serving.started import (
    EngineOptions,
    Limits,
    Overheads,
    PolicyName,
    Residence,
    policy_of,
    residence_of,
)
from attacc.serving.work import Chunk, Work
from attacc.workload.generated import Independent, Resampled
from attacc.workload.loads import lengths_of, lengths_source, synthetic_load

__all__ = [
    "Call",
    "Chunk",
    "EngineOptions",
    "EngineUse",
    "Fleet",
    "FoundRate",
    "Independent",
    "Latencies",
    "Limits",
    "Overheads",
    "Policy",
    "PolicyName",
    "Refusal",
    "Request",
    "Resampled",
    "Residence",
    "RouterName",
    "Server",
    "Service",
    "Spread",
    "Targets",
    "TimelineWindow",
    "Work",
    "check_outputs",
    "find_rate",
    "lengths_of",
    "lengths_source",
    "policy_of",
    "residence_of",
    "synthetic_load",
]
