"""An application (inbox), the command line in pipelines (pipeline.sh), fine-tuning on made tasks with its figures."""
