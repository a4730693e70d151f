"""Executed references: each technique's mechanism as torch code on real processes.

A reference has to compute what the undivided layer computes, outputs and gradients, and to send, byte for byte and
kind by kind, what the technique's program says. ``python -m commlens.validation.references`` runs all of them.
"""

from .harness import RankFailed
from .report import references

__all__ = ["RankFailed", "references"]
