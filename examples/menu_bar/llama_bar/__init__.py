"""Llama Bar: what was copied goes to a model on this machine, and the answer can be pasted."""
