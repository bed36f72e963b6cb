"""Many requests over time: how whole requests are served, prefill and decode.

`attacc.serving.steady` prices the steady state of a batch, in which every request that ends makes
room for the next one. `attacc.serving.search` finds the layout, the engine and the batch that serve
most requests within latency targets. `attacc.serving.simulator` plays requests one by one on an
engine with a batching policy (`attacc.serving.engines`), and `attacc.serving.results` tells what
users felt.
"""
