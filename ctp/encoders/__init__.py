"""Video encoders, their weights and their export."""
