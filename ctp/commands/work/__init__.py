"""The work of commands that need torch but no cluster."""
