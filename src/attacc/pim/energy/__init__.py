"""What commands cost: cited energy per event."""
