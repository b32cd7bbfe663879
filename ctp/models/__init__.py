"""The encoders, the prediction head, batch normalisation across workers, and weights on disk."""
