"""Measures a model on this machine, alone or side by side with mlx-lm; used by `llama3-mlx bench`."""
