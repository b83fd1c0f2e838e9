"""Primitives that differ between an event loop (`aio`) and threads (`threads`), under the same names."""
