"""A training run: the loop, its state on disk, reports and loggers."""
