"""What must be computed: architectures, their operators, and element types."""
