"""Readers of ``config.json``: one class for each family, which lists the keys that decide it."""
