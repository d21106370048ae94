"""What the protocols share: loaded models, prompts, answers and their events."""
