"""Sweeps: trials, their scores and their tables."""
