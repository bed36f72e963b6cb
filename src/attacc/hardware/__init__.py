"""What exists: DRAM devices and their units, GPUs, CPUs, links, and the systems made of them."""
