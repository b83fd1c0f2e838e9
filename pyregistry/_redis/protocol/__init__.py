"""Keys, scripts, requests and replies of the registry's protocol. No I/O."""
