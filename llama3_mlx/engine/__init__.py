"""Continuous batching: one thread that owns a model and generates all answers in one batch."""
