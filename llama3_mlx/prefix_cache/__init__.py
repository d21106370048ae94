"""Reusing the KV cache of prompts with a common prefix.

`memory.py` keeps prefixes in memory, `disk.py` in blocks on disk, `disk_queue.py` reads and writes those for the
engine.
"""
