#!lua
-- set_branch: what a hub said of a branch, once the commit is DOWNLOADED.
--
-- A value is [commit or name, the lease time at which the hub was asked]. The hub's later answer stays, in whatever
-- order they arrive: a download of hours does not undo what a later one found.
--
-- Template: plain
-- Keys: meta, branches
-- Args: branch:str, commit:str, spelling:word, canonical:word, asked:int
-- (branch, spelling: fields of `branches`; branch "": set only the name; asked: lease time before the hub was asked)
-- Reply: [how many fields were written]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: a copy that comes late finds its own answer, or a later one
-- Event: none
--
-- Composed by tools/build_lua from src/set_branch.v1.lua: change that file.

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

if #KEYS ~= 2 or #ARGV ~= 5 then
  error({err = 'ERR pyregistry: set_branch.v1 takes 2 keys and 5 arguments, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local branches = KEYS[2]
local branch = ARGV[1]
local commit = ARGV[2]
local spelling = ARGV[3]
if spelling == '' then
  error({err = 'ERR pyregistry: spelling is empty'}, 0)
end
local canonical = ARGV[4]
if canonical == '' then
  error({err = 'ERR pyregistry: canonical is empty'}, 0)
end
local asked = tonumber(ARGV[5])
if not asked or asked < 0 or asked > MAX_INT or asked % 1 ~= 0 then
  error({err = 'ERR pyregistry: asked is not a whole number of 0 to 2^53 - 1'}, 0)
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

if asked > now then asked = now end

local function is_older(stored)
  if not stored then return true end
  local read, known = pcall(cmsgpack.unpack, stored)
  -- A value that can't be read is replaced.
  if not read or type(known) ~= 'table' or type(known[1]) ~= 'string' or type(known[2]) ~= 'number' then return true end
  return known[2] < asked or known[2] > now
end

local known = call('HMGET', branches, branch, spelling)
local fields = {}
if branch ~= '' and is_older(known[1]) then
  fields[1], fields[2] = branch, pack({commit, asked})
end
if is_older(known[2]) then
  fields[#fields + 1] = spelling
  fields[#fields + 1] = pack({canonical, asked})
end
if #fields > 0 then call('HSET', branches, unpack(fields)) end
if stepped_back then
  call('HSET', meta, 'time', string.format('%.0f', now), 'skew', string.format('%.0f', skew))
elseif #fields > 0 then
  call('HSET', meta, 'time', string.format('%.0f', now))
end
return pack({#fields / 2})
