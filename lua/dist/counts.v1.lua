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
--
-- Composed by tools/build_lua from src/counts.v1.lua: change that file.

if #KEYS ~= 5 or #ARGV ~= 0 then
  error({err = 'ERR pyregistry: counts.v1 takes 5 keys and 0 arguments, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local index_downloading = KEYS[2]
local index_downloaded = KEYS[3]
local index_error = KEYS[4]
local index_evicting = KEYS[5]

local call, pack = redis.call, cmsgpack.pack

local bytes = call('HMGET', meta, 'bytes:DOWNLOADING', 'bytes:DOWNLOADED', 'bytes:ERROR', 'bytes:EVICTING')
for i = 1, 4 do bytes[i] = tonumber(bytes[i]) or 0 end
return pack({
  {
    call('ZCARD', index_downloading), call('ZCARD', index_downloaded),
    call('ZCARD', index_error), call('ZCARD', index_evicting),
  },
  bytes,
})
