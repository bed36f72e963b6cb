"""Cost models of GPUs: what an operator takes in time and energy."""
