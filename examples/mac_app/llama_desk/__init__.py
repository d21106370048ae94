"""Llama Desk: conversations with a model on this machine, in a window."""
