"""Reading checkpoints: Hugging Face folders, Meta's files."""
