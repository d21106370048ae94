"""Generation options, sampling, and what a completion holds."""
