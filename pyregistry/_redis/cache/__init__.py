"""Client-side caching of records, which the server invalidates (RESP3 client tracking)."""
