#!lua flags=no-writes
-- now: what lease time is it?
--
-- Prelude: 1
-- Keys: meta
-- Args: none
-- Reply: [lease time]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none

--@clock
return pack({now})
