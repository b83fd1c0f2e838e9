#!lua flags=allow-oom
-- open: is this server fit for the registry, and is it still the one that wrote last?
--
-- Runs before the first writing script of every new connection, and is loaded before any other script, so
-- that a server without scripts (restarted, failed over, flushed) is always opened first. Where the server
-- is another one, or was restarted, writes of its last second may be lost: the clock jumps ahead of every
-- tick that they can have held (60 s, and the time that has passed since the last write), so that no token
-- is given twice, however often that happens.
--
-- Prelude: 1
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting, any_record, any_holds
-- Args: channel:str, schema:int
-- Reply: [run id, version, schema of the namespace]
-- Errors: NOPERM what the user may not do; WRONGTYPE a shared key of another type; SCHEMATOONEW n
-- Re-send: safe: the second call finds the server's own id and changes nothing
-- Event: none

local function needs(...)
  if not redis.acl_check_cmd(...) then
    error({err = 'NOPERM pyregistry needs a right that this user lacks: ' .. concat({...}, ' ')}, 0)
  end
end

needs('INFO', 'server')
needs('TIME')
needs('TYPE', meta)
needs('HMGET', meta, 'x')
needs('SPUBLISH', channel, 'x')
needs('HSET', meta, 'x', 'x')
needs('GET', any_record)
needs('MGET', any_record)
needs('MSET', any_record, 'x')
needs('DEL', any_record, any_holds)
needs('ZCOUNT', any_holds, '0', '1')

local function has_type(key, wanted)
  local found = call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    error({err = 'WRONGTYPE pyregistry: ' .. key .. ' is a ' .. found .. ', not a ' .. wanted}, 0)
  end
end

has_type(meta, 'hash')
for _, key in ipairs({index_downloading, index_downloaded, index_error, index_evicting}) do
  has_type(key, 'zset')
  needs('ZADD', key, '0', 'x')
  needs('ZREM', key, 'x')
  needs('ZSCORE', key, 'x')
  needs('ZCARD', key)
  needs('ZRANGE', key, '0', '1', 'BYSCORE', 'LIMIT', '0', '1', 'WITHSCORES')
end

--@clock
local known = call('HMGET', meta, 'schema', 'server')
local found = tonumber(known[1]) or schema
if found > schema then error({err = 'SCHEMATOONEW ' .. string.format('%.0f', found)}, 0) end

local info = call('INFO', 'server')
local server = string.match(info, 'run_id:(%x+)')
local version = string.match(info, 'valkey_version:(%S+)')
version = version and 'valkey ' .. version or 'redis ' .. string.match(info, 'redis_version:(%S+)')

if known[2] ~= server then
  local fields = {'schema', string.format('%.0f', found), 'server', server}
  if time > 0 then
    fields[#fields + 1] = 'clock'
    fields[#fields + 1] = string.format('%.0f', clock + 60000000 + now - time)
    -- Else a registry that nobody writes to would count the same hours again at its next restart.
    fields[#fields + 1] = 'time'
    fields[#fields + 1] = string.format('%.0f', now)
  end
  call('HSET', meta, unpack(fields))
end
if stepped_back then call('HSET', meta, 'time', string.format('%.0f', now), 'skew', string.format('%.0f', skew)) end
return pack({server, version, found})
