"""Public: how engines are started, latencies that users accept, and what they felt."""

from attacc.serving.results import Latencies, Spread, Targets
from attacc.serving.serve import Service
from attacc.serving.started import EngineOptions, PolicyName, policy_of

__all__ = [
    "EngineOptions",
    "Latencies",
    "PolicyName",
    "Service",
    "Spread",
    "Targets",
    "policy_of",
]
