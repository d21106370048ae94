#!/usr/bin/env bash
# The command line in pipelines: examples/pipeline.sh MODEL FILE. Answers go to stdout, all else to stderr.
set -euo pipefail
model=$1 file=$2

# A file in, a sentence out.
llama3-mlx generate -m "$model" -p "Summarize this in one sentence:" --max-tokens 60 <"$file"

# JSON by a schema, for the next program. The schema ends the answer; one that --max-tokens cuts off would be no JSON.
schema='{"type": "object", "properties": {"title": {"type": "string", "maxLength": 60},
         "words": {"type": "integer", "minimum": 0, "maximum": 9999}},
         "required": ["title", "words"], "additionalProperties": false}'
llama3-mlx generate -m "$model" -p "Describe this text:" --schema "$schema" --max-tokens 800 <"$file" |
  python3 -c 'import json, sys; print("title:", json.load(sys.stdin)["title"])'

# One of two words, for the shell to decide by.
if [ "$(llama3-mlx generate -m "$model" -p "Is this text about weather?" --choices yes --choices no <"$file")" = yes ]; then
  echo "weather"
else
  echo "something else"
fi
