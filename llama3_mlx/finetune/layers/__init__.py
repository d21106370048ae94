"""Trainable layers.

`lora.py` has LoRA and DoRA, `full.py` fully trained modules, `targets.py` chooses the layers, `attach.py` puts them
in.
"""
