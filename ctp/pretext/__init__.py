"""Pretraining by Catch-the-Patch: its config, its clips, its model and loss, its run."""
