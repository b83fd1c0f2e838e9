"""The registry on Redis and Valkey."""
