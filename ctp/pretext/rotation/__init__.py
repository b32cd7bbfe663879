"""3DRotNet."""
