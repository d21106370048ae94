"""Models and adapters on this machine and on the Hugging Face Hub.

`resolver.py` says what a name means, `catalogue.py` which models a server may name, `home.py` where they are,
`hub.py` downloads them, `storage.py` removes and copies them.
"""
