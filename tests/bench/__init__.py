"""Timings, which no test depends on: `make bench`."""
