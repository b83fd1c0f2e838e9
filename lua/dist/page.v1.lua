#!lua flags=no-writes
-- page: the next entries of some of the sorted sets in the order of their last use, oldest first.
--
-- Template: plain
-- Keys: none
-- Args: from:int, limit:int
-- Item keys: index_key
-- Item args: none
-- (from: the least score; limit: 1 to 1000 entries)
-- Reply: [entry, score, entry, score, ...]
-- Errors: ERR pyregistry: a wrong call, a limit out of range
-- Re-send: safe: it writes nothing
-- Event: none
--
-- Composed by tools/build_lua from src/page.v1.lua: change that file.

local function refuse(why)
  error({err = 'ERR pyregistry: ' .. why}, 0)
end

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

local items = #KEYS - 0
if items < 1 or items > 64 or #ARGV ~= 2 then
  error({err = 'ERR pyregistry: page.v1 takes 1 to 64 items, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local from = tonumber(ARGV[1])
if not from or from < 0 or from > MAX_INT or from % 1 ~= 0 then
  error({err = 'ERR pyregistry: from is not a whole number of 0 to 2^53 - 1'}, 0)
end
local limit = tonumber(ARGV[2])
if not limit or limit < 0 or limit > MAX_INT or limit % 1 ~= 0 then
  error({err = 'ERR pyregistry: limit is not a whole number of 0 to 2^53 - 1'}, 0)
end
local index_key

local call, pack = redis.call, cmsgpack.pack

-- Return a score as the integer that a tick is, even if it was edited by hand.
local function whole_score(text)
  return math.floor(math.max(0, math.min(tonumber(text) or 0, MAX_INT)))
end

if limit < 1 or limit > 1000 then refuse('limit is not 1 to 1000') end

local heads, at = {}, {}
for item = 1, items do
  index_key = KEYS[item]
  local least = string.format('%.0f', from)
  heads[item] = call('ZRANGE', index_key, least, '+inf', 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  at[item] = 1
end

local merged = {}
while #merged < limit * 2 do
  local oldest, least
  for item = 1, items do
    local score = tonumber(heads[item][at[item] + 1])
    if score and (not least or score < least) then oldest, least = item, score end
  end
  if not oldest then break end
  merged[#merged + 1] = heads[oldest][at[oldest]]
  merged[#merged + 1] = whole_score(least)
  at[oldest] = at[oldest] + 2
end
return pack(merged)
