"""``attacc presets``: what is shipped with the package, with the sources of every number."""
