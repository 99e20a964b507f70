"""What a dump says of the model's structure, for people and for other programs."""
