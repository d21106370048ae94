"""Better 4-bit weights in the same format: scales found by search, errors compensated, all of it measured."""
