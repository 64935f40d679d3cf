"""Environments: locks, what is installed against what its wheels were, and what brings a recorded one back."""
