"""The demo: two real data sets from upload to uncertainty, over HTTP alone."""
