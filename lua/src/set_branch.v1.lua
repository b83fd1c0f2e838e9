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

--@include clock

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
