"""Frozen values and their canonical form: what a run is, what it left, and how two of them differ. No I/O."""
