"""What commands answer: the records that their JSON spells out, and their tables."""
