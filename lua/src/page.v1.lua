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

--@include score

if limit < 1 or limit > 1000 then refuse('limit is not 1 to 1000') end

local heads, at = {}, {}
for item = 1, items do
  --@item
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
