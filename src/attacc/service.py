"""Public: how engines are started, what users accept and felt, fleets, and the highest rate."""

from attacc.serving.fleet import EngineUse
from attacc.serving.rates import FoundRate, find_rate
from attacc.serving.results import Latencies, Spread, Targets
from attacc.serving.routing import RouterName
from attacc.serving.serve import Fleet, Server, Service
from attacc.serving.started import EngineOptions, PolicyName, policy_of

__all__ = [
    "EngineOptions",
    "EngineUse",
    "Fleet",
    "FoundRate",
    "Latencies",
    "PolicyName",
    "RouterName",
    "Server",
    "Service",
    "Spread",
    "Targets",
    "find_rate",
    "policy_of",
]
