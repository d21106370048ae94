"""Fine-tuning on made tasks, from data to the figures before and after."""
