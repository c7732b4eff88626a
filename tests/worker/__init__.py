"""Promises of the worker, part by part."""
