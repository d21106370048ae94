"""Python types to JSON Schema and back, and validation against a schema."""
