"""HTTP without a protocol.

`middleware.py` is the outermost layer, `security.py` says who may call, `body.py` limits bodies, `streaming.py` sends
events; `errors.py`, `logs.py` and `metrics.py` do what their names say.
"""
