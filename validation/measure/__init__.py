"""Measuring for real: kernels timed with torch, collectives among local processes, and profiles fitted to both."""
