"""What goes over the wire beside the engine's specs: requests and views."""
