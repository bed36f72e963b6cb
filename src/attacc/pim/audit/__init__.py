"""Witnesses of timing and of values that know logs, geometry and rules, and no controller."""
