"""The command line of lm-evaluation-harness with this package's model: `python -m llama3_mlx.lm_eval`.

    python -m llama3_mlx.lm_eval run --model llama3-mlx --model_args pretrained=FOLDER --tasks arc_challenge

Everything else is as the harness' own `lm-eval`; see HarnessModel for the arguments of the model.
"""

import sys

from .errors import Llama3MLXError
from .evaluation.evaluating import check_harness


def main() -> int:
    """Run the harness' command line; our own errors are one line and exit code 2."""
    try:
        check_harness()
        from lm_eval.__main__ import cli_evaluate

        from .evaluation import language_model  # noqa: F401  # registers the model

        cli_evaluate()
    except Llama3MLXError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
