"""What the protocols share.

`request_context.py` is a request from arrival to last byte, `loaded_models.py` gives it a model, `chat.py` and
`completion.py` start its answers, `events.py` is what comes back.
"""
