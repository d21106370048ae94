"""Messages to a prompt.

`dialog.py` encodes messages, by the chat template that `template_files.py` finds and `template.py` runs;
`messages.py` normalizes them, `injection_guard.py` keeps their text from becoming control tokens, `assistant_mask.py`
marks what the assistant wrote, `tool_prompt.py` and `llama3_templates.py` stand in where a checkpoint has nothing of
its own.
"""
