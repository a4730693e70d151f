"""Techniques for the all-reduces of tensor parallelism."""
