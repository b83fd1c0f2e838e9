-- What the user may do, and the types of the shared keys.

local function needs(...)
  local is_known, is_allowed = pcall(redis.acl_check_cmd, ...)
  if not is_known then
    error({err = 'ERR unknown command ' .. (...)}, 0)
  end
  if not is_allowed then
    error({err = 'NOPERM pyregistry needs a right that this user lacks: ' .. table.concat({...}, ' ')}, 0)
  end
end

needs('INFO', 'server')
needs('TIME')
needs('TYPE', meta)
needs('HMGET', meta, 'x')
needs('SPUBLISH', channel, 'x')
needs('HSET', meta, 'x', 'x')
needs('HMGET', branches, 'x')
needs('HSET', branches, 'x', 'x')
needs('GET', any_record)
needs('MGET', any_record)
needs('MSET', any_record, 'x')
needs('DEL', any_record, any_holds)
needs('ZCOUNT', any_holds, '0', '1')

-- No script subscribes, and a client that never waits does not need this right. So its lack is reported, not an error.
local is_known, may_wait = pcall(redis.acl_check_cmd, 'SSUBSCRIBE', channel)
local lacking = is_known and may_wait and '' or 'SSUBSCRIBE ' .. channel

local function has_type(key, wanted)
  local found = call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    error({err = 'WRONGTYPE pyregistry: ' .. key .. ' is a ' .. found .. ', not a ' .. wanted}, 0)
  end
end

has_type(meta, 'hash')
has_type(branches, 'hash')
for _, key in ipairs({index_downloading, index_downloaded, index_error, index_evicting}) do
  has_type(key, 'zset')
  needs('ZADD', key, '0', 'x')
  needs('ZREM', key, 'x')
  needs('ZSCORE', key, 'x')
  needs('ZCARD', key)
  needs('ZRANGE', key, '0', '1', 'BYSCORE', 'LIMIT', '0', '1', 'WITHSCORES')
end
