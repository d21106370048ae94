"""Function calling: declaring tools, parsing calls, running them."""
