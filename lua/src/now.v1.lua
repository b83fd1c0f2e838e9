#!lua flags=no-writes
-- now: what lease time is it?
--
-- Template: plain
-- Keys: meta
-- Args: none
-- Reply: [lease time]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none

--@include clock

return pack({now})
