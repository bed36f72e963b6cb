"""The device as a host sees it: attention and products of a model, with its state."""
