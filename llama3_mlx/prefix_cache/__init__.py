"""Reusing the KV cache of prompts with a common prefix, in memory and on disk."""
