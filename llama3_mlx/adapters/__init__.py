"""LoRA adapters at run time and on disk, in the formats of mlx-lm, PEFT and llama.cpp."""
