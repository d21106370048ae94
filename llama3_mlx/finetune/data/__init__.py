"""Training data: reading records, their formats, encoding and packing."""
