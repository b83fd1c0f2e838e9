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

local known = call('HMGET', meta, 'cache_id')[1]
if not known and proposed ~= '' then
  call('HSET', meta, 'cache_id', proposed)
  known = proposed
end
return pack({known or ''})
