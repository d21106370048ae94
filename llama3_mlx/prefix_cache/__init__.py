"""Reusing the KV cache of prompts that begin alike.

`memory.py` keeps prefixes in memory, `disk.py` in blocks on disk, `disk_queue.py` reads and writes those for the
engine.
"""
