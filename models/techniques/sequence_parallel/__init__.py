"""Techniques that divide sequences, and what the ranks then pass each other for attention."""
