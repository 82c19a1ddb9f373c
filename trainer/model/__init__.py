"""Causal language models: loading, forward passes, decoding, merging of weights."""
