"""SpeedNet."""
