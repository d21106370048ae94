"""OpenAI's protocol: chat, completions, responses, embeddings, models."""
