"""Pipelines of chunks: what each stage runs and when, in closed form and as a program."""
