#!lua flags=no-writes
-- read: records together with their last use.
--
-- Template: lookup
-- Keys: index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Item keys: record_key
-- Item args: none
-- Reply: ["found", last use (0: not in the index), the record], ["absent"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none
--
-- Composed by tools/build_lua from src/read.v1.lua: change that file.

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

local items = #KEYS - 4
if items < 1 or items > 64 or #ARGV ~= 0 then
  error({err = 'ERR pyregistry: read.v1 takes 1 to 64 items, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local index_downloading = KEYS[1]
local index_downloaded = KEYS[2]
local index_error = KEYS[3]
local index_evicting = KEYS[4]
local record_key

local call, pack = redis.call, cmsgpack.pack
local char, sub, concat = string.char, string.sub, table.concat

-- Return a score as the integer that a tick is, even if it was edited by hand.
local function whole_score(text)
  return math.floor(math.max(0, math.min(tonumber(text) or 0, MAX_INT)))
end

-- Return the first of `length` unpacked elements; nil unless they are all there and nothing is left.
local function first_of(length, unpacked, left, first, ...)
  if unpacked and left == -1 and select('#', ...) == length - 1 then return first end
end

-- One item alone needs no table of replies.
local replies, reply, entry_at = items > 1 and {'\220\0' .. char(items)}
for item = 1, items do
  record_key = KEYS[4 + item]
  local stored = redis.pcall('GET', record_key)
  if not stored then
    reply = '\145\166absent'
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
      local used = call('ZSCORE', index, entry)
      reply = '\147\165found' .. pack(whole_score(used)) .. stored
    end
  end
  if replies then replies[item + 1] = reply end
end

return replies and concat(replies) or '\145' .. reply
