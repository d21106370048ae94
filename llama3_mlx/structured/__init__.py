"""Structured output: constrained decoding by JSON schema, regular expression, grammar or choices.

`grammar.py` compiles a constraint, `tool_grammar.py` one that only lets calls of tools through, `vocabulary.py` shows
the tokenizer to llguidance, `token_mask.py` applies the masks, `result.py` validates the finished answer.
"""
