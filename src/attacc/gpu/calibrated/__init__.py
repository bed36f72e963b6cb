"""The cost model whose coefficients are fitted to measured GPUs."""
