"""The HTTP server: OpenAI's, Ollama's and Anthropic's protocols over one engine, and a page to chat on.

Needs the extra `server`. Each protocol turns a request's body into a `Chat` or a `Continuation`
(core/chat.py, core/completion.py) and renders the events that come back (core/events.py); none of them knows how a
model runs.
"""
