"""Where a fleet keeps its files. The public names are in `pyregistry.store`."""
