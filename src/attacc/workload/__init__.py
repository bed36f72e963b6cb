"""What is asked of the model: requests, and the distributions of their lengths."""
