"""Promises of the whole, with real processes."""
