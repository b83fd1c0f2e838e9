"""Measurements. Each compares side by side in one run; absolute times mean little on a shared machine."""
