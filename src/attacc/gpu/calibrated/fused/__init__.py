"""Calibrated operators that no product and no attention describes: one module for each."""
