"""Routes: one module for each thing that callers know."""
