"""GGUF files, both ways.

`source.py` reads them, `target.py` writes them; `file.py` and `writer.py` know the format.
"""
