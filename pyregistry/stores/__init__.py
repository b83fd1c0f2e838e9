"""Stores of a fleet's files. The public names are in `pyregistry.store`."""
