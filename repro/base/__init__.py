"""What every room needs and no domain word enters: canonical JSON, digests, files, locks, clock, processes."""
