-- A script that needs only the status of each record.
--
-- Hooks:
--   at-start       runs once, before the first item (optional)
--   when-absent    runs for each item that has no record
--   when-present   runs for each item whose record has a known status
--   at-end         runs once, after the last item (optional)
--
-- A hook for an item sets `reply`, the packed reply to that item. `when-present` may use `stored`, `status`, `index`
-- (the key of the sorted set of that status) and `entry`.

--@include arguments

--@bindings

local call, pack = redis.call, cmsgpack.pack
local char, sub, concat = string.char, string.sub, table.concat

--@include score

-- Return the first of `length` unpacked elements; nil unless they are all there and nothing is left.
local function first_of(length, unpacked, left, first, ...)
  if unpacked and left == -1 and select('#', ...) == length - 1 then return first end
end

--@at-start?

-- One item alone needs no table of replies.
local replies, reply, entry_at = items > 1 and {'\220\0' .. char(items)}
for item = 1, items do
  --@item
  local stored = redis.pcall('GET', record_key)
  if not stored then
    --@when-absent
  else
    -- The status, without a table of all elements: a table costs more than the rest of this loop.
    local first, length, begin = type(stored) == 'string' and string.byte(stored) or 0, 0, 1
    if first >= 0x90 and first <= 0x9f then
      length = first - 0x90
    elseif first == 0xdc then
      length, begin = (string.byte(stored, 2) or 0) * 256 + (string.byte(stored, 3) or 0), 3
    end
    local status, index
    if length > 0 and length < 256 then
      status = first_of(length, pcall(cmsgpack.unpack_limit, stored, length, begin))
      index = status == 'DOWNLOADED' and index_downloaded or status == 'DOWNLOADING' and index_downloading
        or status == 'ERROR' and index_error or status == 'EVICTING' and index_evicting
    end
    if not index then
      reply = '\146' .. pack('damaged', 'its status can not be read')
    else
      entry_at = entry_at or string.find(record_key, '}:model:', 1, true) + 8
      local entry = sub(record_key, entry_at)
      --@when-present
    end
  end
  if replies then replies[item + 1] = reply end
end

--@at-end?

return replies and concat(replies) or '\145' .. reply
