"""A training run.

`trainer.py` has the loop and the training step; `job.py` is everything around it, from checking the inputs to the
result. `memory_plan.py` chooses what fits, `run_folder.py` and `state.py` save and resume, `callbacks.py`,
`loggers.py` and `report.py` tell how it goes.
"""
