"""What a worker may ask for."""
