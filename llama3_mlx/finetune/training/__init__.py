"""A training run.

`trainer.py` has the loop and the training step, `running.py` everything around it, from the job (`job.py`) to the
result. `memory_plan.py` chooses what fits, `run_folder.py` and `state.py` save and resume, `callbacks.py`,
`loggers.py` and `report.py` tell how it goes.
"""
