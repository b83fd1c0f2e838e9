"""Connections to the server, and transports that send requests and retry them."""
