"""Training data.

`records.py` reads files, folders and data sets, `formats.py` recognizes their keys, `encoding.py` makes token ids and
targets, `packing.py` arranges examples into rows, `order.py` into steps; `statistics.py` is what `data check` shows.
"""
