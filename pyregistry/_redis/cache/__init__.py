"""Client-side caching: records that were read, as long as the server tracks them for this client."""
