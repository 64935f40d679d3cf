"""Pictures of what runs say: values in, files out, the same bytes for the same values."""
