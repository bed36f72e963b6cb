"""Where data goes: heads over channels, keys and values over banks, rows and columns."""
