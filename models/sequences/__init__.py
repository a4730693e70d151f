"""Sequences of unlike length: corpora and batches of them, what they cost, and plans run in the engine."""
