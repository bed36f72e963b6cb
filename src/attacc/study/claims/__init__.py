"""What this package claims, and the checks of each claim."""
