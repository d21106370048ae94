"""Writing the result.

`folder.py` is an MLX or transformers folder; `writer.py` writes its files with a `journal.py` to resume from,
`verification.py` reads them again, `model_card.py` and `upload.py` publish them.
"""
