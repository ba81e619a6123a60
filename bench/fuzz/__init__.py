"""Requests at random, 100 000 of them: no 5xx, no hang, no growth, every refusal a problem."""
