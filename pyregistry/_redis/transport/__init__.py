"""Connections to the server, and what is sent again over them."""
