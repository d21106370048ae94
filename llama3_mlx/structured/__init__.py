"""Structured output: constrained decoding by JSON Schema, regular expression or grammar."""
