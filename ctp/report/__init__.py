"""What came out of runs: each by itself, many beside each other, and the paper's numbers."""
