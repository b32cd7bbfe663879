"""The game: where patches fly (trajectory), what they are (patch) and their pasting (compose)."""
