"""Kills at any instant under mixed load, and what is left of it."""
