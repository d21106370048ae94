"""Fixtures and settings that all tests share."""

import os

# transformers must not look for a network, and its own warnings are not ours.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
