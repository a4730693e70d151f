"""Routing as data: which experts tokens chose, in files, counted, generated, fitted, and recorded from models."""
