"""Function tools: how they are defined, shown to a model, and read back out of its text. Pure."""
