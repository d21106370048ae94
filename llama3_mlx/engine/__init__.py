"""Continuous batching: one thread owns the model, and all answers are generated in one batch.

`engine.py` has the loop: admit, prefill, decode, finish. `batch.py` is one decode step of all sequences and
`speculative_step.py` one with drafts; `prefill.py` runs a prompt in chunks, `token_choice.py` samples, `row.py` is
one sequence, `scheduler.py` and `memory_room.py` decide what fits beside what runs. `request.py` goes in, `reply.py`
comes out.
"""
