"""LoRA adapters at run time and on disk.

`adapter.py` is an adapter apart from any model, `adapter_set.py` several over one base, mixed in a batch. The formats
are mlx-lm's (`mlx_lm_format.py`), PEFT's (`peft_format.py`) and llama.cpp's (`gguf_format.py`). `rescaling.py` fits
adapters to models with equalized channels.
"""
