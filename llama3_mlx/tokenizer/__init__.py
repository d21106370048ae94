"""Text to token ids and back.

`tokenizer.py` is the tokenizer, `loading.py` finds it in a model folder: Llama 3's own (`llama3.py`,
`tiktoken_ranks.py`) or another byte-pair tokenizer (`hf_bpe.py`). `detokenizer.py` streams text.
"""
