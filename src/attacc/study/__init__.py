"""Comparisons, reproductions and sweeps: the questions that people ask of everything else."""
