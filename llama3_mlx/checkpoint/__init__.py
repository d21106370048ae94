"""Reading weights from a checkpoint folder into the model."""
