"""Ollama's protocol.

`generate.py` (generate and chat), `embed.py`, `models.py` (tags, ps, show), `manage.py` (pull, create).
"""
