"""Trainer of multi-teacher on-policy distillation and its rivals on Hugging Face causal LMs."""
