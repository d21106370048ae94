"""Merging an adapter into the weights of its base."""
