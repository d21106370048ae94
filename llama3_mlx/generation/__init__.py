"""What a generation is given and gives back.

`options.py` declares every setting, `sampling.py` and `penalties.py` turn logits into tokens, `stop_strings.py` and
`limits.py` end an answer, `completion.py` holds the result, `tool_loop.py` is a dialog that calls functions.
"""
