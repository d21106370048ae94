"""Function calling.

`functions.py` turns Python functions into specifications and runs them, `parser.py` finds calls in what the model
writes: as JSON (`parse_json.py`) or as Python (`parse_pythonic.py`). What an answer may call is constrained in
structured/.
"""
