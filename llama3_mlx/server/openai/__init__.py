"""OpenAI's protocol.

`chat.py`, `completions.py`, `responses.py`, `embeddings.py`, `moderations.py`, `models.py`; `schema.py` has the bodies.
"""
