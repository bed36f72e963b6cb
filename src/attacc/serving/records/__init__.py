"""What a run leaves behind: its steps and its requests in columns."""
