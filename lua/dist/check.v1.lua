#!lua flags=no-writes
-- check: is this server fit for the registry, as far as that shows without a write?
--
-- Runs where `open` is refused for now (too few replicas, no persistence, a read-only replica), and then the scripts
-- that only read are loaded, and no others: reads go on, and `open` is still due before the first write.
--
-- Template: plain
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting, any_record, any_holds, branches
-- Args: channel:str, schema:int
-- Reply: [run id, version, schema of the namespace, 1: `open` is due, what waiting needs and this user lacks ("": nothing)]
-- Errors: NOPERM what the user may not do; ERR unknown command; WRONGTYPE a shared key of another type; SCHEMATOONEW n
-- Re-send: safe: it writes nothing
-- Event: none
--
-- Composed by tools/build_lua from src/check.v1.lua: change that file.

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

if #KEYS ~= 8 or #ARGV ~= 2 then
  error({err = 'ERR pyregistry: check.v1 takes 8 keys and 2 arguments, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local index_downloading = KEYS[2]
local index_downloaded = KEYS[3]
local index_error = KEYS[4]
local index_evicting = KEYS[5]
local any_record = KEYS[6]
local any_holds = KEYS[7]
local branches = KEYS[8]
local channel = ARGV[1]
local schema = tonumber(ARGV[2])
if not schema or schema < 0 or schema > MAX_INT or schema % 1 ~= 0 then
  error({err = 'ERR pyregistry: schema is not a whole number of 0 to 2^53 - 1'}, 0)
end

local call, pack = redis.call, cmsgpack.pack

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

local known = call('HMGET', meta, 'schema', 'server')
local found = tonumber(known[1]) or schema
if found > schema then error({err = 'SCHEMATOONEW ' .. string.format('%.0f', found)}, 0) end

local info = call('INFO', 'server')
local server = string.match(info, 'run_id:(%x+)')
local version = string.match(info, 'valkey_version:(%S+)')
version = version and 'valkey ' .. version or 'redis ' .. string.match(info, 'redis_version:(%S+)')

return pack({server, version, found, 1, lacking})
