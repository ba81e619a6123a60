"""Networks with patterned dropout, trained and sampled: arrays and specs in, values and events out."""
