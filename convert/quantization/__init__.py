"""The quantizer: choosing low-bit weights that are close to their source.

`methods.py` names the methods with their papers: round-to-nearest (`quantizer.py`), channel equalization
(`equalization.py`), GPTQ (`gptq.py`, layer by layer in `layer_calibration.py`), distillation (`distillation.py`) and
bit allocation (`sensitivity.py`, `bit_allocation.py`). `divergence.py` and `report.py` measure the result.
"""
