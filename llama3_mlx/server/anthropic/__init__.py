"""Anthropic's protocol: `messages.py`, with the bodies in `schema.py`."""
