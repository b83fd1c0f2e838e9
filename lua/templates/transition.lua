-- A transition: it judges every item of the batch in order, each seeing what the items before it decided, and writes.
--
-- Hooks:
--   at-start         runs once, before the first item (optional)
--   when-absent      runs for each item whose key holds no record when the item's key is first met (optional)
--   when-undecided   runs once, before the first item that `when-absent` has not decided
--
-- `when-undecided` defines `judge`, which returns the packed reply to the item in up to three pieces, and calls `save`,
-- `remove`, or sets `slot.used`. It may define `judge_damaged`, for a record that can't be read. `when-absent` decides
-- an item when it sets `one` (and `two`, `three`) to the pieces of the reply. `record` is the item's record, or nil.
--
-- A call for one item spends most of its time on creating closures and tables. So the functions for records are created
-- when the first item needs them, inside the loop, and a change of one item is written without tables.
--
-- Every item is judged before the first write. Nothing can fail after the first write, except for what `open` has
-- checked.

--@include arguments

--@bindings

local call, pack = redis.call, cmsgpack.pack
local char, sub, concat = string.char, string.sub, table.concat

-- The current item: `record` as the items before it left it (nil: absent), and `slot`. A slot holds what was there
-- (`was`, `was_bytes`) and, once that changes, what will be there (`is`, false: nothing; `bytes`; `text`; `used`).
local slot, record, entry_at

-- The pieces of the message with all events. Its header comes last, because the number of events is not known before.
-- The table is created with room for one event, because a table that grows costs more.
local events, told = nil, 0

-- Set when the first item needs them.
local judge, judge_damaged, record_of, packed

--@at-start?

--@include clock

-- The slots, in order and by key, and the replies. One item alone needs neither table.
local slots, distinct, replies, n = nil, 0, nil, 1
if items > 1 then slots, replies = {}, {'\220\0' .. char(items)} end
local get = redis.pcall
local one, two, three
for item = 1, items do
  --@item
  local stored
  one = nil
  slot = slots and slots[record_key]
  if not slot then
    entry_at = entry_at or string.find(record_key, '}:model:', 1, true) + 8
    -- Created with the usual fields, because a table that grows costs more.
    slot = {key = record_key, entry = sub(record_key, entry_at), text = nil, used = nil, record = nil}
    if slots then
      distinct = distinct + 1
      slots[distinct], slots[record_key] = slot, slot
    end
    stored = get('GET', record_key)
    if not stored then
      --@when-absent?
    end
  end
  if not one then
    if not judge then
      --@include records

      --@include changes

      --@include claims

      --@when-undecided
    end
    if stored then
      slot.record, slot.damaged = record_of(stored)
      record = slot.record
      if record then
        slot.text, slot.was = stored, record[STATUS]
        slot.was_bytes = record[SIZE_BYTES] > 0 and record[SIZE_BYTES] or record[BYTES_TOTAL]
      end
    else
      -- An item that `when-absent` decided has only the text of its record.
      if slot.is and not slot.record then slot.record = record_of(slot.text) end
      record = slot.record
    end
    if not slot.damaged then
      one, two, three = judge()
    elseif judge_damaged then
      one, two, three = judge_damaged()
    else
      one, two, three = packed('damaged', slot.damaged)
    end
  end
  if replies then
    n = n + 1
    replies[n] = one
    if two then
      replies[n + 1], replies[n + 2] = two, three
      n = n + 2
    end
  end
end

-- Write: the events first, then the index and `meta`, the records last.

local reply = not replies and (two and '\145' .. one .. two .. three or '\145' .. one)
local ticked = clock ~= last_clock

if told > 0 then
  events[1] = told == 1 and '\145' or '\220\0' .. char(told)
  call('SPUBLISH', channel, concat(events))
end
if not slots then
  local is, was, entry = slot.is, slot.was, slot.entry
  local bytes, was_bytes = slot.bytes or 0, slot.was_bytes or 0
  if not stepped_back and (is == nil or bytes + was_bytes == 0 or was == is and bytes == was_bytes) then
    -- One item that changes no sum of bytes: the most frequent call.
    if is ~= nil or ticked then
      local heal = slot.heal
      if heal or is ~= nil and was and was ~= is then
        if is ~= 'DOWNLOADING' and (heal or was == 'DOWNLOADING') then call('ZREM', index_downloading, entry) end
        if is ~= 'DOWNLOADED' and (heal or was == 'DOWNLOADED') then call('ZREM', index_downloaded, entry) end
        if is ~= 'ERROR' and (heal or was == 'ERROR') then call('ZREM', index_error, entry) end
        if is ~= 'EVICTING' and (heal or was == 'EVICTING') then call('ZREM', index_evicting, entry) end
      end
      local format = string.format
      local now_text = format('%.0f', now)
      local clock_text = clock == now and now_text or format('%.0f', clock)
      if slot.used and is ~= false then
        local status = is or was
        local index = status == 'DOWNLOADING' and index_downloading or status == 'DOWNLOADED' and index_downloaded
          or status == 'ERROR' and index_error or index_evicting
        call('ZADD', index, slot.used == clock and clock_text or format('%.0f', slot.used), entry)
      end
      if ticked then
        call('HSET', meta, 'time', now_text, 'clock', clock_text)
      else
        call('HSET', meta, 'time', now_text)
      end
      if is then
        call('MSET', slot.key, slot.text)
      elseif is == false then
        call('DEL', slot.key, slot.beside)
      end
    end
    return reply
  end
  slots, distinct = {slot}, 1
end

--@include numbers

local adds, values, stores, now_text = {}, {}, 0, text_of(now)
local rems, sums, gone -- created when needed: few calls have any
for i = 1, distinct do
  local it = slots[i]
  local entry, was, is, used = it.entry, it.was, it.is, it.used
  if used then
    local status = is or was
    local score, list = used == now and now_text or text_of(used), adds[status]
    if list then
      local n = #list
      list[n + 1], list[n + 2] = score, entry
    else
      adds[status] = {score, entry}
    end
  end
  if is ~= nil then
    local bytes, was_bytes = it.bytes or 0, it.was_bytes or 0
    if bytes + was_bytes > 0 and (was ~= is or bytes ~= was_bytes) then
      sums = sums or {}
      if was then sums[was] = (sums[was] or 0) - was_bytes end
      if is then sums[is] = (sums[is] or 0) + bytes end
    end
    if it.heal or was and was ~= is then
      for status in pairs(it.heal and {DOWNLOADING = 1, DOWNLOADED = 1, ERROR = 1, EVICTING = 1} or {[was] = 1}) do
        if status ~= is then
          rems = rems or {}
          rems[status] = rems[status] or {}
          table.insert(rems[status], entry)
        end
      end
    end
    if is then
      values[stores + 1], values[stores + 2] = it.key, it.text
      stores = stores + 2
    else
      gone = gone or {}
      local n = #gone
      gone[n + 1], gone[n + 2] = it.key, it.beside
    end
  end
end

if ticked or stepped_back or stores > 0 or gone then
  local fields = {'time', now_text, nil, nil}
  if ticked then fields[3], fields[4] = 'clock', clock == now and now_text or text_of(clock) end
  if stepped_back then
    local n = #fields
    fields[n + 1], fields[n + 2] = 'skew', text_of(skew)
  end
  if sums then
    for status, bytes in pairs(sums) do
      -- Read and stored, not incremented: HINCRBY fails on a value that is no integer.
      local field, n = 'bytes:' .. status, #fields
      local old = tonumber(call('HMGET', meta, field)[1]) or 0
      fields[n + 1], fields[n + 2] = field, text_of(math.max(old + bytes, 0))
    end
  end
  local index = {
    DOWNLOADING = index_downloading, DOWNLOADED = index_downloaded, ERROR = index_error, EVICTING = index_evicting,
  }
  if rems then
    for status, list in pairs(rems) do call('ZREM', index[status], unpack(list)) end
  end
  for status, list in pairs(adds) do call('ZADD', index[status], unpack(list)) end
  call('HSET', meta, unpack(fields))
  if stores > 0 then call('MSET', unpack(values)) end
  if gone then call('DEL', unpack(gone)) end
end
return reply or concat(replies)
