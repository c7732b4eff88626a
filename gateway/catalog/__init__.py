"""What there is to serve, read without running any of it."""
