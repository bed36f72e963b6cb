"""Renderings of the papers that `attacc reproduce` reproduces: tables, and a page."""
