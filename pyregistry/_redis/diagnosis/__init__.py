"""Examines a server and the records of a namespace: what `doctor` reports."""
