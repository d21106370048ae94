"""Models and adapters on this machine and on the Hugging Face Hub."""
