"""Formats of files of requests: one module for each family, listed in `registry`."""
