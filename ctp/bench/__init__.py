"""What loading, training and other parts cost."""
