#!lua flags=allow-oom
-- touch: a model is in use.
--
-- Template: lookup
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Item keys: record_key
-- Item args: none
-- Reply: ["known"], ["unknown"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: a later last use is as true
-- Event: none (a touch changes no record, and reads only its status)
--
-- Row: DOWNLOADING, DOWNLOADED, ERROR | `last_used` bumped | known
-- Row: EVICTING; absent | unchanged | known; not known
--
-- Composed by tools/build_lua from src/touch.v1.lua: change that file.

local items = #KEYS - 5
if items < 1 or items > 64 or #ARGV ~= 0 then
  error({err = 'ERR pyregistry: touch.v1 takes 1 to 64 items, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local index_downloading = KEYS[2]
local index_downloaded = KEYS[3]
local index_error = KEYS[4]
local index_evicting = KEYS[5]
local record_key

local call, pack = redis.call, cmsgpack.pack
local char, sub, concat = string.char, string.sub, table.concat

-- Return the first of `length` unpacked elements; nil unless they are all there and nothing is left.
local function first_of(length, unpacked, left, first, ...)
  if unpacked and left == -1 and select('#', ...) == length - 1 then return first end
end

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

-- Most calls touch one model: its index, tick and entry need no tables.
local touched, one_index, one_tick, one_entry = 0
local lists -- by index: ticks and entries of several models

-- One item alone needs no table of replies.
local replies, reply, entry_at = items > 1 and {'\220\0' .. char(items)}
for item = 1, items do
  record_key = KEYS[5 + item]
  local stored = redis.pcall('GET', record_key)
  if not stored then
    reply = '\145\167unknown'
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
      reply = '\145\165known'
      if status ~= 'EVICTING' then
        clock = clock < now and now or clock + 1 -- a tick
        touched = touched + 1
        if touched == 1 then
          one_index, one_tick, one_entry = index, clock, entry
        else
          lists = lists or {[one_index] = {one_tick, one_entry}}
          local list = lists[index]
          if list then
            local n = #list
            list[n + 1], list[n + 2] = clock, entry
          else
            lists[index] = {clock, entry}
          end
        end
      end
    end
  end
  if replies then replies[item + 1] = reply end
end

local format = string.format
if touched > 0 then
  local now_text = format('%.0f', now)
  local clock_text = clock == now and now_text or format('%.0f', clock)
  if lists then
    -- Return an integer of 0 to 2^53 - 1 as decimal text. It is made in parts because %d may be limited to 32 bits and
    -- %.0f takes several times as long. Numbers of a batch follow one another, so the upper part is kept for the next.
    local high, high_text
    local function text_of(number)
      local format = string.format
      if number < 10000000 then return format('%d', number) end
      local low = number % 100
      if number - low ~= high then
        high = number - low
        local middle = high % 10000000
        high_text = format('%d%05d', (high - middle) / 10000000, middle / 100)
      end
      return high_text .. char(48 + (low - low % 10) / 10, 48 + low % 10)
    end
    for index, list in pairs(lists) do
      for i = 1, #list, 2 do list[i] = text_of(list[i]) end
      call('ZADD', index, unpack(list))
    end
  else
    call('ZADD', one_index, clock_text, one_entry)
  end
  call('HSET', meta, 'time', now_text, 'clock', clock_text)
end
if stepped_back then call('HSET', meta, 'time', format('%.0f', now), 'skew', format('%.0f', skew)) end

return replies and concat(replies) or '\145' .. reply
