"""What is run by hand: the demo, and measurements."""
