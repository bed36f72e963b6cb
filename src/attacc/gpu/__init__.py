"""Cost models of GPUs: the time and energy of an operator."""
