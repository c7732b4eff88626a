"""Promises of the trusted side, part by part."""
