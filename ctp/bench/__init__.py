"""Measure what the parts of a run cost."""
