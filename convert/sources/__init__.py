"""Reading checkpoints.

`source.py` is what a conversion reads from; `huggingface.py` and `meta.py` are two sources, GGUF's is in gguf/.
"""
