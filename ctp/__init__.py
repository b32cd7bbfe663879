"""Catch-the-Patch: video pretraining by tracking patches, as a service on Ray."""
