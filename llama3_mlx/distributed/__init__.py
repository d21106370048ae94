"""One model over several processes or machines, on MLX's distributed engine: who holds what, and who says what.

Rank 0, the leader, owns requests, scheduling, sampling and everything that prints or listens. The others, the
followers, hold a share of the layers and repeat what the leader does with the KV cache. Hidden states travel between
them as MLX arrays, orders as small arrays of whole numbers over a TCP channel of their own, which also tells a dead or
stalled process from a busy one.
"""
