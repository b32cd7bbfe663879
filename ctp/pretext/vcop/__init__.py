"""VCOP."""
