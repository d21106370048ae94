"""Trainable layers and how they are attached to a model."""
