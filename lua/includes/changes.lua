-- What becomes of the record of an item.

-- Return a MessagePack array of up to 15 elements.
function packed(...)
  return char(0x90 + select('#', ...)) .. pack(...)
end

-- Return the next tick: a token, or the score of a use. Ticks only grow.
local function tick()
  clock = clock < now and now or clock + 1
  return clock
end

-- Add an event. It carries the record and its last use, so a waiter needs no further read.
local function announce(kind, by)
  events, told = events or {'', nil, nil}, told + 1
  local n = #events
  events[n + 1] = '\150' .. pack(kind, slot.entry, now, by or '', slot.used or 0)
  events[n + 2] = slot.text or pack({BLANK})
end

-- Store `record` for this item. `kind` is the kind of the event (nil: no event), `used` the tick of a new last
-- use (nil: unchanged), `by` the caller where the record does not name it.
local function save(kind, used, by)
  -- Trailing elements that hold their defaults are left out, as an older layout leaves them out.
  local length = #record
  if length == KNOWN then
    while record[length] == '' or record[length] == 0 do length = length - 1 end
  end
  local begin = length < 16 and char(0x90 + length) or '\220\0' .. char(length)
  slot.record, slot.text = record, begin .. pack(unpack(record, 1, length))
  slot.is, slot.used = record[STATUS], used or slot.used
  -- The size, or else the expected size.
  slot.bytes = record[SIZE_BYTES] > 0 and record[SIZE_BYTES] or record[BYTES_TOTAL]
  if kind then announce(kind, by) end
end

-- Delete the record, and the key `beside` with it.
local function remove(kind, by, beside)
  announce(kind, by)
  slot.record, slot.text, slot.is, slot.bytes = nil, nil, false, 0
  slot.beside, slot.heal = beside, true
end
