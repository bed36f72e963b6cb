"""When commands happen: rules become integer tables, a compiled kernel plays the controller."""
