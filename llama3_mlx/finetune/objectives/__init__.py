"""What is trained for.

`supervised.py`, `preference.py` (DPO, ORPO, KTO) and `grpo.py` are objectives as `objective.py` defines one;
`rollouts.py` generates answers and `rewards.py` scores them.
"""
