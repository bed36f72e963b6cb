"""GPU + PIM together: the step, transfers, overlap, and capacity."""
