"""Values and checks that every other package uses: no I/O, no Redis, no threads."""
