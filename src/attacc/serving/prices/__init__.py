"""Prices of an engine's steps within microseconds, from tables that the one pricer fills."""
