"""Batching policies with the semantics of serving engines, and the memory blocks that they use."""
