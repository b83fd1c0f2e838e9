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

--@include clock

-- Return a value as it is stored; nil in MessagePack for an absent value or one that can't be read.
local function readable(stored)
  local read, known = pcall(cmsgpack.unpack, stored or '\192')
  local is_pair = read and type(known) == 'table' and type(known[1]) == 'string' and type(known[2]) == 'number'
  return is_pair and stored or '\192'
end

local known = call('HMGET', branches, branch, spelling)
return '\147' .. pack(now) .. readable(known[1]) .. readable(known[2])
