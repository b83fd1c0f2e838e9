"""Examines a server and the records of a namespace, for `doctor`."""
