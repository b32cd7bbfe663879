"""Sweeps: what is varied, what came out, and how it is told."""
