"""`python -m llama3_mlx` is the command `llama3-mlx`."""

import sys

from .cli import main

sys.exit(main())
