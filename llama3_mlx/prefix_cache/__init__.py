"""Reusing the KV cache of prompts that begin alike, in memory and on disk."""
