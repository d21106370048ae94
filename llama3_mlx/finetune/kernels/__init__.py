"""The forward pass of training, with memory-bounded attention and loss."""
