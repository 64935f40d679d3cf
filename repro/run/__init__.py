"""Capture, seal, launch, watch, conclude: the one way anything is executed."""
