-- prelude 1: arguments, lease time, records, and the bookkeeping of a batch.
--
-- The loader puts the sections of this file, which begin with a line `--@section`, and the script's own text
-- together, and leaves out the functions that nothing needs. What a script costs alone is mostly the making of its
-- closures; so what needs a record is made when the first item has one, inside the loop over the items.
--
-- For the line `--@bindings` the loader puts what it reads in the script's header: how many items there are, and a
-- local for each shared key and argument; for the line `--@item` what sets a local for each key and argument of the
-- item in hand. A script that judges no items gets that as `bind(item)`, and comes after the section `records`; `batch`
-- is left out. The lines `--@clock` and `--@records` stand for those sections; the latter begins with `blank()`, a
-- record in which nothing is said yet. The names of a record's elements become their positions (`record[TOKEN]`).
--
-- A script says how to judge an item (`judge`) and what becomes of its record (`save`, `use`, `remove`). What comes
-- before its line `--@records` is made at once: it may judge an item that has no record yet (`judge_absent`). Every
-- item is judged before anything is written; nothing can fail after the first write, but for what the `open`
-- script has checked.

local function refuse(why)
  error({err = 'ERR pyregistry: ' .. why}, 0)
end

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

local function int(text, name)
  if text == '0' then return 0 end -- the commonest
  local value = tonumber(text)
  if not value or value < 0 or value > MAX_INT or value % 1 ~= 0 then
    refuse(name .. ' is not a whole number of 0 to 2^53 - 1')
  end
  return value
end

local function int_or_nil(text, name)
  if text == '' then return nil end
  return int(text, name)
end

local function flag(text, name)
  if text ~= '0' and text ~= '1' then refuse(name .. ' is neither 0 nor 1') end
  return text == '1'
end

--@bindings

local call, pack = redis.call, cmsgpack.pack
local char, sub, concat = string.char, string.sub, table.concat

-- A whole number of 0 to 2^53 - 1 in decimal. In parts, since %d may take no more than 32 bits, and %.0f takes several
-- times as long; and those of a batch, which follow one another, have all but the end in common.
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

-- What a MessagePack string of such a length begins with: by the length, those of a batch are mostly the same.
local string_headers = {claim_id = nil, entry = nil}
local function string_header(n)
  local known = string_headers[n]
  if not known then
    if n < 32 then known = char(0xa0 + n)
    elseif n < 256 then known = '\217' .. char(n)
    else known = '\218' .. char((n - n % 256) / 256, n % 256) end
    string_headers[n] = known
  end
  return known
end

-- Lease time (microseconds): the server's clock, but it never goes back. `clock` is the last tick.

local now, time, skew, clock, stepped_back, ticked

-- A number that only grows: the token of whoever gets one, and the score of a use.
local function tick()
  clock = clock < now and now or clock + 1
  ticked = true
  return clock
end

-- What a MessagePack array of up to 255 elements begins with.
local function header(length)
  return length < 16 and char(0x90 + length) or '\220\0' .. char(length)
end

-- The item in hand: its record as the items before it left it (nil: there is none), and its slot, in
-- which the batch remembers what was there (`was`, `was_bytes`) and what shall be (`is`, `bytes`).
-- All tables have room for one item at once: one that grows costs more.
local slots, order = {[''] = nil}, {nil}
-- What the message begins with comes last (a long string that is made twice costs more than this).
local events, told = {'', nil, nil, nil, nil, nil, nil}, 0
local distinct = 0
local slot, record, entry_at

-- How a script judges the item in hand, one that has no record yet, and one whose record can't be read: each
-- gives the packed reply, `judge` and `judge_absent` in up to three pieces. `judge_absent` may give nothing; then
-- `judge` has the word.
local judge, judge_absent, judge_damaged, look

--@section clock

local stored = call('HMGET', meta, 'time', 'skew', 'clock')
time, skew, clock = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
local utc = call('TIME')
now = utc[1] * 1000000 + utc[2] + skew
stepped_back = now < time
if stepped_back then
  skew = skew + time - now
  now = time
end

--@section records

local BLANK

-- The record in `text`, or nil and why it can't be read.
local function record_of(text)
  if type(text) == 'table' then return nil, 'not a string' end
  local first = string.byte(text) or 0
  if not (first >= 0x90 and first <= 0x9f or first == 0xdc) then
    return nil, 'not a MessagePack array'
  end
  local whole, rest, record = pcall(cmsgpack.unpack_one, text)
  if not whole or rest ~= -1 then return nil, 'not one whole MessagePack value' end
  -- Not `#record`: that stops anywhere if an element is nil.
  local length = first == 0xdc and string.byte(text, 2) * 256 + string.byte(text, 3) or first - 0x90
  if length > 255 then return nil, 'too many elements' end
  BLANK = BLANK or blank()
  local known = #BLANK
  for i = 1, length < known and length or known do
    local element = record[i]
    if type(element) ~= type(BLANK[i])
        or (type(element) == 'number' and (element < 0 or element >= 2 ^ 63 or element % 1 ~= 0)) then
      return nil, 'element ' .. i .. ' is of a wrong type'
    end
  end
  for i = length + 1, known do record[i] = BLANK[i] end
  -- With a hole among the elements of a newer layout the record would be packed as a map.
  for i = known + 1, length do
    if record[i] == nil then return nil, 'element ' .. i .. ' is nil' end
  end
  local status = record[STATUS]
  if status ~= 'DOWNLOADING' and status ~= 'DOWNLOADED' and status ~= 'ERROR' and status ~= 'EVICTING' then
    return nil, 'its status is unknown'
  end
  return record
end

-- Known size, else what is expected.
local function bytes_of(record)
  return record[SIZE_BYTES] > 0 and record[SIZE_BYTES] or record[BYTES_TOTAL]
end

-- A score as the whole number that a tick is, whatever somebody may have set by hand.
local function whole_score(text)
  return math.floor(math.max(0, math.min(tonumber(text) or 0, MAX_INT)))
end

-- A MessagePack array of up to 15 elements.
local function packed(...)
  return char(0x90 + select('#', ...)) .. pack(...)
end

-- Tells what happened. The record's last use goes with it: whoever waits needs no other read.
local function announce(kind, by)
  local n = #events
  events[n + 1] = '\150' .. pack(kind, slot.entry, now, by or '', slot.used or 0)
  events[n + 2] = slot.text or pack(blank())
  told = told + 1
end

-- Store `record` for this item. `kind` names the event (nil: none goes out), `used` is the tick of a new
-- last use (nil: that stays), `by` the caller where the record does not name him.
local function save(kind, used, by)
  -- What says nothing at the end is left out, as an older layout would.
  BLANK = BLANK or blank()
  local length = #record
  while record[length] == BLANK[length] do length = length - 1 end
  slot.record, slot.text = record, header(length) .. pack(unpack(record, 1, length))
  slot.is, slot.bytes = record[STATUS], bytes_of(record)
  slot.stored, slot.used = true, used or slot.used
  if kind then announce(kind, by) end
end

-- A new last use, nothing else.
local function use()
  slot.used = tick()
end

-- The record goes, and with it the key beside it.
local function remove(kind, by, beside)
  announce(kind, by)
  slot.record, slot.text, slot.is, slot.bytes = nil, nil, nil, 0
  slot.removed, slot.beside, slot.heal = true, beside, true
end

-- Claims

local function is_live()
  return record[LEASE_END] == 0 or record[LEASE_END] > now
end

local function lease_left()
  return record[LEASE_END] == 0 and -1 or math.max(record[LEASE_END] - now, 0)
end

local function extend(lease)
  if record[LEASE_END] ~= 0 then
    record[LEASE_END] = lease == 0 and 0 or math.max(record[LEASE_END], now + lease)
  end
end

-- Does the claim of the caller hold this record? Lease over or not: nobody took over.
local function is_mine(status, claim_id, token)
  return record and record[STATUS] == status and record[CLAIM_ID] == claim_id and record[TOKEN] == token
end

local function no_claim()
  record[CLAIM_ID], record[LEASE_END] = '', 0
  record[BYTES_DONE], record[BYTES_TOTAL] = 0, 0
  record[PREVIOUS_OWNER], record[PREVIOUS_BYTES_DONE] = '', 0
  record[BEGAN], record[RETRY_AT], record[PERMANENT] = 0, 0, 0
end

local function claim_reply(kind)
  return packed(
    kind, record[TOKEN], record[LEASE_END], lease_left(), record[ATTEMPTS],
    record[PREVIOUS_OWNER], record[PREVIOUS_BYTES_DONE]
  )
end

-- A new claim of this record; `began` says how: 1 by a claim, 2 by a retry.
local function give_claim(kind, began, claim_id, owner, lease, attempts)
  local token = tick()
  record[STATUS], record[TOKEN] = 'DOWNLOADING', token
  record[CLAIM_ID], record[OWNER] = claim_id, owner
  record[LEASE_END] = lease == 0 and 0 or now + lease
  record[ATTEMPTS], record[MESSAGE], record[BEGAN] = attempts, '', began
  record[BYTES_DONE], record[RETRY_AT] = 0, 0
  record[SIZE_BYTES], record[LOCATION], record[RESOLVED_REVISION] = 0, '', ''
  save(kind, token)
  return claim_reply('claimed')
end

-- A request that was sent again meets its own claim.
local function same_claim(lease)
  extend(lease)
  save()
  return claim_reply('again')
end

--@section batch

-- The batch: judges every item in order, each seeing what those before it decided.

--@clock
local replies, n = {header(items), nil, nil, nil}, 1
local get = redis.pcall
for item = 1, items do
  --@item
  local one, two, three, stored
  slot = slots[record_key]
  if not slot then
    entry_at = entry_at or string.find(record_key, '}:model:', 1, true) + 8
    -- With room for what is known of most.
    slot = {key = record_key, entry = sub(record_key, entry_at), text = nil, is = nil, bytes = nil, stored = nil, used = nil}
    slots[record_key] = slot
    distinct = distinct + 1
    order[distinct] = slot
    stored = get('GET', record_key)
    if judge_absent and not stored then one, two, three = judge_absent() end
  end
  if not one then
    if not judge then
      --@records

      function look(stored)
        if stored then
          slot.record, slot.damaged = record_of(stored)
          if slot.record then
            slot.text, slot.was, slot.was_bytes = stored, slot.record[STATUS], bytes_of(slot.record)
            slot.is, slot.bytes = slot.was, slot.was_bytes
          end
        elseif slot.text and not slot.record then
          slot.record = record_of(slot.text) -- what `judge_absent` gave was only text
        end
        record = slot.record
      end

      function judge_damaged()
        return packed('damaged', slot.damaged)
      end

      --@script
    end
    look(stored)
    if slot.damaged then one = judge_damaged() else one, two, three = judge() end
  end
  n = n + 1
  replies[n] = one
  if two then
    replies[n + 1], replies[n + 2] = two, three
    n = n + 2
  end
end

-- What is to be written.

local now_text = ticked and text_of(now)
local adds, values, stores = {DOWNLOADING = nil}, {nil, nil}, 0
local rems, sums, gone -- few calls have any
for i = 1, distinct do
  local it = order[i]
  local entry, was, is, used = it.entry, it.was, it.is, it.used
  if used then
    local score, list = used == now and now_text or text_of(used), adds[is]
    if list then
      local n = #list
      list[n + 1], list[n + 2] = score, entry
    else
      adds[is] = {score, entry}
    end
  end
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
  if it.stored then
    values[stores + 1], values[stores + 2] = it.key, it.text
    stores = stores + 2
  elseif it.removed then
    gone = gone or {}
    local n = #gone
    gone[n + 1], gone[n + 2] = it.key, it.beside
  end
end

-- Each thing at once, the records last.

if ticked or stepped_back or stores > 0 or gone then
  local fields = {'time', now_text or text_of(now), nil, nil}
  if ticked then fields[3], fields[4] = 'clock', clock == now and now_text or text_of(clock) end
  if stepped_back then
    local n = #fields
    fields[n + 1], fields[n + 2] = 'skew', text_of(skew)
  end
  if sums then
    for status, bytes in pairs(sums) do
      -- Read and stored rather than incremented: an increment fails on a value that somebody damaged.
      local field, n = 'bytes:' .. status, #fields
      local old = tonumber(call('HMGET', meta, field)[1]) or 0
      fields[n + 1], fields[n + 2] = field, text_of(math.max(old + bytes, 0))
    end
  end
  local index = {
    DOWNLOADING = index_downloading, DOWNLOADED = index_downloaded, ERROR = index_error, EVICTING = index_evicting,
  }
  if told > 0 then
    events[1] = header(told)
    call('SPUBLISH', channel, concat(events))
  end
  if rems then
    for status, list in pairs(rems) do call('ZREM', index[status], unpack(list)) end
  end
  for status, list in pairs(adds) do call('ZADD', index[status], unpack(list)) end
  call('HSET', meta, unpack(fields))
  if stores > 0 then call('MSET', unpack(values)) end
  if gone then call('DEL', unpack(gone)) end
end
return concat(replies)
