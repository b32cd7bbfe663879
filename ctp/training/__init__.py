"""What any training run needs: a step, a schedule, checkpoints, metrics, the run folder."""
