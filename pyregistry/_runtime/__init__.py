"""What differs between an event loop and threads, by the same names: `aio` and `threads`."""
