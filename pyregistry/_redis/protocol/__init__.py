"""Keys, scripts, requests and replies. No I/O."""
