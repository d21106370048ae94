"""The HTTP server: OpenAI's, Ollama's and Anthropic's protocols over one engine, and a page to chat on.

Needs the extra `llama3-mlx[server]`. Each protocol turns a request into an `Ask` (asks.py) and renders the events
that come back (events.py); none of them knows how a model runs.
"""
