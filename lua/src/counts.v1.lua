#!lua flags=no-writes
-- counts: how many records there are by status, and how many bytes they stand for.
--
-- Template: plain
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Reply: [[downloading, downloaded, error, evicting], the same in bytes]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none

local bytes = call('HMGET', meta, 'bytes:DOWNLOADING', 'bytes:DOWNLOADED', 'bytes:ERROR', 'bytes:EVICTING')
for i = 1, 4 do bytes[i] = tonumber(bytes[i]) or 0 end
return pack({
  {
    call('ZCARD', index_downloading), call('ZCARD', index_downloaded),
    call('ZCARD', index_error), call('ZCARD', index_evicting),
  },
  bytes,
})
