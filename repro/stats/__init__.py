"""Pure arrays in, numbers out; every random choice takes a Generator."""
