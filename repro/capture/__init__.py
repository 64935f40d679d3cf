"""Looks at the world and returns values: code, environment, hardware, variables, data."""
