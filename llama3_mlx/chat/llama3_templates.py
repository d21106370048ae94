"""Chat templates for Llama 3 checkpoints that bring none: Meta's own files and GGUF files without one.

They render what the templates of meta-llama's Hugging Face repositories render. Source of the format:
https://www.llama.com/docs/model-cards-and-prompt-formats.
"""

import re

LLAMA_3 = """\
{{- bos_token }}
{%- for message in messages %}
  {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" }}
  {%- if message.role == "assistant" %}
    {%- generation %}{{ message.content | trim + "<|eot_id|>" }}{%- endgeneration %}
  {%- else %}
    {{- message.content | trim + "<|eot_id|>" }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

# Llama 3.1 and newer: a system block with dates before all, tools in the first user message, results as ipython.
LLAMA_3_1 = """\
{%- macro head(role) %}{{ "<|start_header_id|>" + role + "<|end_header_id|>\\n\\n" }}{% endmacro %}
{%- macro functions() %}
  {%- for tool in tools %}{{ tool | tojson(indent=4) + "\\n\\n" }}{% endfor %}
{%- endmacro %}
{%- set in_user = tools and (tools_in_user_message is not defined or tools_in_user_message) %}
{%- set with_system = messages and messages[0].role == "system" %}
{%- set rest = messages[1:] if with_system else messages %}
{{- bos_token + head("system") }}
{%- if tools %}{{ "Environment: ipython\\n" }}{% endif %}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: " + (date_string or "26 Jul 2024") + "\\n\\n" }}
{%- if tools and not in_user %}
  {{- "You have access to the following functions. To call a function, please respond with JSON for a function call." }}
  {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
  {{- "Do not use variables.\\n\\n" + functions() }}
{%- endif %}
{{- (messages[0].content | trim if with_system else "") + "<|eot_id|>" }}
{%- if in_user %}
  {%- if not rest %}{{ raise_exception("tools stand in the first user message, and there is none") }}{% endif %}
  {{- head("user") + "Given the following functions, please respond with a JSON for a function call " }}
  {{- "with its proper arguments that best answers the given prompt.\\n\\n" }}
  {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
  {{- "Do not use variables.\\n\\n" + functions() + rest[0].content | trim + "<|eot_id|>" }}
  {%- set rest = rest[1:] %}
{%- endif %}
{%- for message in rest %}
  {%- if message.tool_calls %}
    {%- if message.tool_calls | length > 1 %}{{ raise_exception("Llama 3.1 makes one call a message") }}{% endif %}
    {%- set call = message.tool_calls[0].function %}
    {{- head("assistant") }}
    {%- generation %}
      {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + "}<|eot_id|>" }}
    {%- endgeneration %}
  {%- elif message.role in ("tool", "ipython") %}
    {{- head("ipython") + message.content | tojson + "<|eot_id|>" }}
  {%- elif message.role == "assistant" %}
    {{- head("assistant") }}
    {%- generation %}{{ message.content | trim + "<|eot_id|>" }}{%- endgeneration %}
  {%- else %}
    {{- head(message.role) + message.content | trim + "<|eot_id|>" }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ head("assistant") }}{% endif %}
"""


def without_marks(template: str) -> str:
    """Return the template without its `generation` blocks, for programs whose Jinja doesn't know them."""
    opened = re.sub(r"\{%- generation %\}(\{\{)?", lambda match: "{{-" if match[1] else "", template)
    return opened.replace("{%- endgeneration %}", "")
