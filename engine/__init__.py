"""Networks with patterned dropout: arrays and specs in, values and events out."""

__version__ = "0.1.0"
