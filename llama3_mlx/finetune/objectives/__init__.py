"""What is trained for: supervised, preference and policy objectives."""
