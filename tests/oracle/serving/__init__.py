"""Serving engines in plain Python, one module a policy; they import nothing from attacc."""
