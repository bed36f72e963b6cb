"""How the weights of a model are stored: formats of elements, and what published files state."""
