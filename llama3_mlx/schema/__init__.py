"""Python types to JSON Schema and back.

`from_types.py` makes a schema of a type, `to_types.py` a value of a type out of JSON, `validation.py` checks a value
against a schema, `docstrings.py` reads the descriptions of arguments.
"""
