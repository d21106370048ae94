"""Messages to a prompt: chat templates, control tokens, and what guards them."""
