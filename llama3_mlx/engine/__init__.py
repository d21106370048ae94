"""Continuous batching: one thread owns the model, and all answers are generated in one batch.

`engine.py` has the step: schedule, prefill, decode, sample, finish; `engine_thread.py` runs it. `scheduler.py` decides
what runs beside what; `prefill.py` runs a prompt in chunks, `prefix_reuse.py` finds what of it is cached already.
`batch.py` decodes all sequences, `speculative_step.py` has the parts of a step with drafts, `token_choice.py` samples.
`sequence.py` is one answer's decode state, `text_stream.py` its text. `request.py` goes in, `reply.py` comes out.
"""
