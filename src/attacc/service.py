"""Public: how engines are started, what users accept and felt, and the highest rate."""

from attacc.serving.rates import FoundRate, find_rate
from attacc.serving.results import Latencies, Spread, Targets
from attacc.serving.serve import Server, Service
from attacc.serving.started import EngineOptions, Overheads, PolicyName, policy_of

__all__ = [
    "EngineOptions",
    "FoundRate",
    "Latencies",
    "Overheads",
    "PolicyName",
    "Server",
    "Service",
    "Spread",
    "Targets",
    "find_rate",
    "policy_of",
]
