"""Pictures and figures of what a run sees, predicts and measures."""
