"""Training a draft head for a model on this machine: data, vocabulary, first values, and the run."""
