"""Tables and arrays on their way to tensors: schema, parsing, selection, splits and encoding."""
