"""Evaluation of encoders: features, retrieval, action recognition and tracking."""
