"""The forward pass of training, bounded in memory.

`forward.py` runs the blocks over packed rows, `packed_attention.py` is attention within each example,
`chunked_loss.py` the cross entropy without the logits of all positions.
"""
