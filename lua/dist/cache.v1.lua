#!lua flags=allow-oom
-- cache: which cache does this namespace stand for? The first id that is proposed stays.
--
-- Template: plain
-- Keys: meta
-- Args: proposed:str
-- (proposed: "" to ask only)
-- Reply: [the id of the cache] ("" where none is known, and none was proposed)
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: the first id stays
-- Event: none
--
-- Composed by tools/build_lua from src/cache.v1.lua: change that file.

if #KEYS ~= 1 or #ARGV ~= 1 then
  error({err = 'ERR pyregistry: cache.v1 takes 1 keys and 1 arguments, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local proposed = ARGV[1]

local call, pack = redis.call, cmsgpack.pack

local known = call('HMGET', meta, 'cache_id')[1]
if not known and proposed ~= '' then
  call('HSET', meta, 'cache_id', proposed)
  known = proposed
end
return pack({known or ''})
