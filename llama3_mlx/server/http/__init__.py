"""HTTP without a protocol: middleware, bodies, errors, logs, metrics, event streams."""
