"""What it costs, against `transformers` and `peft` in the same run."""
