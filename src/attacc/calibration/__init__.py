"""Fitting the cost models of GPUs to measurements, and checking them."""
