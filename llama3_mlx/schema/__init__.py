"""Python types to JSON Schema and back.

`from_types.py` makes a schema of a type, `to_types.py` a value of a type out of JSON, `docstrings.py` and
`annotations.py` read descriptions and limits. `constrainable.py` says what of a schema a grammar can hold, `check.py`
checks values against all of it, with `formats.py` and `patterns.py` for texts.
"""
