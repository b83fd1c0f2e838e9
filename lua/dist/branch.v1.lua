#!lua flags=no-writes
-- branch: which commit a branch of a repository led to last, and how the repository is really named.
--
-- Template: plain
-- Keys: meta, branches
-- Args: branch:str, spelling:word
-- (branch, spelling: fields of `branches`; branch "": ask only for the name)
-- Reply: [lease time, [commit, lease time], [name, lease time]] (nil in the place of what is not known)
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none
--
-- Composed by tools/build_lua from src/branch.v1.lua: change that file.

if #KEYS ~= 2 or #ARGV ~= 2 then
  error({err = 'ERR pyregistry: branch.v1 takes 2 keys and 2 arguments, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local branches = KEYS[2]
local branch = ARGV[1]
local spelling = ARGV[2]
if spelling == '' then
  error({err = 'ERR pyregistry: spelling is empty'}, 0)
end

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

-- Return a value as it is stored; nil in MessagePack for an absent value or one that can't be read.
local function readable(stored)
  local read, known = pcall(cmsgpack.unpack, stored or '\192')
  local is_pair = read and type(known) == 'table' and type(known[1]) == 'string' and type(known[2]) == 'number'
  return is_pair and stored or '\192'
end

local known = call('HMGET', branches, branch, spelling)
return '\147' .. pack(now) .. readable(known[1]) .. readable(known[2])
