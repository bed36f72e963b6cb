"""GPU + PIM together: cost models of operators, transfers, overlap, one step, and capacity."""
