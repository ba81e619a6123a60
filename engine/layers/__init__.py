"""Layers: what each form computes from its inputs and parameters."""
