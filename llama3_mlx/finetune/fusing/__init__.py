"""Adding an adapter to the weights of its base.

`fuse.py` is the whole of it, `precision.py` chooses the bits of each fused matrix by the effect that is kept.
"""
