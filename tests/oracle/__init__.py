"""Obvious implementations that the fast ones are compared with; they import nothing compiled."""
