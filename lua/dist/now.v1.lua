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
--
-- Composed by tools/build_lua from src/now.v1.lua: change that file.

if #KEYS ~= 1 or #ARGV ~= 0 then
  error({err = 'ERR pyregistry: now.v1 takes 1 keys and 0 arguments, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]

local call, pack = redis.call, cmsgpack.pack

-- `now` is lease time in microseconds: the server's clock plus `skew`, which never goes back. `clock` is the last tick.
local stored_clock = call('HMGET', meta, 'time', 'skew', 'clock')
local time, skew = tonumber(stored_clock[1]) or 0, tonumber(stored_clock[2]) or 0
local last_clock = tonumber(stored_clock[3]) or 0
local clock, utc = last_clock, call('TIME')
local now = utc[1] * 1000000 + utc[2] + skew
local stepped_back = now < time
if stepped_back then
  skew = skew + time - now
  now = time
end

return pack({now})
