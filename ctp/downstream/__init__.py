"""What an encoder is worth: features of videos, and what they are good for."""
