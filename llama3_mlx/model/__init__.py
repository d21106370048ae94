"""The network and its parameters.

`transformer.py` is the forward pass (attention itself is computed by the cache, in kv_cache/), `rope.py` its rotary
positions, `config.py` its hyperparameters. `parameters.py` lists its tensors, `quantization.py` says how they are
stored, `channel_scales.py` how their channels were equalized, `fused_projections.py` joins q/k/v and gate/up for
inference, and `memory_estimate.py` counts what a config needs.
"""
