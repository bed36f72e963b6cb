"""Public: a language model writes text with its attention on AttAccs; needs the torch extra."""

from attacc.integrations.writing import write
from attacc.study.generated import Generated, HostType, Sampling

__all__ = ["Generated", "HostType", "Sampling", "write"]
