"""Earn a run again, and say whether it came out equal, where it came apart, and what differs."""
