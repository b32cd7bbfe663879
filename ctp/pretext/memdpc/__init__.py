"""MemDPC."""
