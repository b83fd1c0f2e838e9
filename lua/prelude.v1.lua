-- prelude 1: arguments, lease time, records, and the bookkeeping of a batch.
--
-- The loader puts the sections of this file, which begin with a line `--@section`, and the script's own text
-- together, and leaves out the functions that nothing needs. What a script costs alone is mostly what it makes: its
-- closures, with what they share, and its tables. So what needs a record is made when the first item has one, inside
-- the loop over the items, and one item alone is written without tables.
--
-- For the line `--@bindings` the loader puts what it reads in the script's header: how many items there are, and a
-- local for each shared key and argument; for the line `--@item` what sets a local for each key and argument of the
-- item in hand. A script that judges no items comes after the section `records`, and may have such lines; `batch` is left
-- out. The lines `--@clock`, `--@records`, `--@status` and `--@numbers` stand for those sections. `record[TOKEN]` is an
-- element of a record by its name, `{BLANK}` a record in which nothing is said yet, `KNOWN` how many elements that has.
--
-- A script says how to judge an item (`judge`) and what becomes of its record (`save`, `remove`, or a new `slot.used`).
-- What comes before its line `--@absent` is made at once; what stands between that and its line `--@records` judges, in
-- place, an item that has no record yet, or leaves it to `judge`. Every item is judged before anything is written;
-- nothing can fail after the first write, but for what the `open` script has checked.

local function refuse(why)
  error({err = 'ERR pyregistry: ' .. why}, 0)
end

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

--@bindings

local call, pack = redis.call, cmsgpack.pack
local char, sub, concat = string.char, string.sub, table.concat

-- What a MessagePack string of such a length begins with.
local function string_header(n)
  return n < 32 and char(0xa0 + n) or n < 256 and char(0xd9, n) or char(0xda, (n - n % 256) / 256, n % 256)
end

-- The first of so many elements that were unpacked, if they are all, and nothing is left.
local function first_of(length, unpacked, left, first, ...)
  if unpacked and left == -1 and select('#', ...) == length - 1 then return first end
end

-- Lease time (microseconds): the server's clock, but it never goes back. `clock` is the last tick.

local now, time, skew, clock, last_clock, stepped_back

-- The item in hand: its record as the items before it left it (nil: there is none), and its slot, in which the batch
-- remembers what was there (`was`, `was_bytes`) and, once that changes, what shall be (`is`, false: nothing; `bytes`).
local slot, record, entry_at

-- What happened, in pieces. What the message begins with comes last (a long string that is made twice costs more than
-- this). The table has room for one event at once: one that grows costs more.
local events, told = nil, 0

-- How a script judges the item in hand, and one whose record can't be read: each gives the packed reply, `judge` in up
-- to three pieces.
local judge, judge_damaged, record_of, packed

--@section clock

local stored = call('HMGET', meta, 'time', 'skew', 'clock')
time, skew, last_clock = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
clock = last_clock
local utc = call('TIME')
now = utc[1] * 1000000 + utc[2] + skew
stepped_back = now < time
if stepped_back then
  skew = skew + time - now
  now = time
end

--@section rights

local function needs(...)
  local is_known, is_allowed = pcall(redis.acl_check_cmd, ...)
  if not is_known then
    error({err = 'ERR unknown command ' .. (...)}, 0)
  end
  if not is_allowed then
    error({err = 'NOPERM pyregistry needs a right that this user lacks: ' .. concat({...}, ' ')}, 0)
  end
end

needs('INFO', 'server')
needs('TIME')
needs('TYPE', meta)
needs('HMGET', meta, 'x')
needs('SPUBLISH', channel, 'x')
needs('HSET', meta, 'x', 'x')
needs('HMGET', branches, 'x')
needs('HSET', branches, 'x', 'x')
needs('GET', any_record)
needs('MGET', any_record)
needs('MSET', any_record, 'x')
needs('DEL', any_record, any_holds)
needs('ZCOUNT', any_holds, '0', '1')

-- No script subscribes: a client that never waits is complete without this right, and is only told of it.
local is_known, may_wait = pcall(redis.acl_check_cmd, 'SSUBSCRIBE', channel)
local lacking = is_known and may_wait and '' or 'SSUBSCRIBE ' .. channel

local function has_type(key, wanted)
  local found = call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    error({err = 'WRONGTYPE pyregistry: ' .. key .. ' is a ' .. found .. ', not a ' .. wanted}, 0)
  end
end

has_type(meta, 'hash')
has_type(branches, 'hash')
for _, key in ipairs({index_downloading, index_downloaded, index_error, index_evicting}) do
  has_type(key, 'zset')
  needs('ZADD', key, '0', 'x')
  needs('ZREM', key, 'x')
  needs('ZSCORE', key, 'x')
  needs('ZCARD', key)
  needs('ZRANGE', key, '0', '1', 'BYSCORE', 'LIMIT', '0', '1', 'WITHSCORES')
end

--@section server

local known = call('HMGET', meta, 'schema', 'server')
local found = tonumber(known[1]) or schema
if found > schema then error({err = 'SCHEMATOONEW ' .. string.format('%.0f', found)}, 0) end

local info = call('INFO', 'server')
local server = string.match(info, 'run_id:(%x+)')
local version = string.match(info, 'valkey_version:(%S+)')
version = version and 'valkey ' .. version or 'redis ' .. string.match(info, 'redis_version:(%S+)')

--@section records

-- The record in `text`, or nil and why it can't be read. What an older layout left out is filled in.
function record_of(text)
  if type(text) == 'table' then return nil, 'not a string' end
  local first, length, begin = string.byte(text) or 0, 0, 1
  if first >= 0x90 and first <= 0x9f then
    length = first - 0x90
  elseif first == 0xdc then
    length, begin = (string.byte(text, 2) or 0) * 256 + (string.byte(text, 3) or 0), 3
  else
    return nil, 'not a MessagePack array'
  end
  if length > 255 then return nil, 'too many elements' end
  -- As values and not as the array: a table that is made at once costs less than one that grows.
  local read = {pcall(cmsgpack.unpack_limit, text, length, begin)}
  if not read[1] or read[2] ~= -1 then return nil, 'not one whole MessagePack value' end
  local record, type = {BLANK}, type
  for i = 1, length do
    local element, usual = read[i + 2], record[i]
    local kind = type(element)
    if usual == '' and kind ~= 'string' or usual == 0
        and (kind ~= 'number' or element < 0 or element >= 2 ^ 63 or element % 1 ~= 0) then
      return nil, 'element ' .. i .. ' is of a wrong type'
    end
    -- With a hole among the elements of a newer layout the record would be packed as a map.
    if i > KNOWN and element == nil then return nil, 'element ' .. i .. ' is nil' end
    record[i] = element
  end
  local status = record[STATUS]
  if status ~= 'DOWNLOADING' and status ~= 'DOWNLOADED' and status ~= 'ERROR' and status ~= 'EVICTING' then
    return nil, 'its status is unknown'
  end
  return record
end

-- A score as the whole number that a tick is, whatever somebody may have set by hand.
local function whole_score(text)
  return math.floor(math.max(0, math.min(tonumber(text) or 0, MAX_INT)))
end

-- A MessagePack array of up to 15 elements.
function packed(...)
  return char(0x90 + select('#', ...)) .. pack(...)
end

-- A number that only grows: the token of whoever gets one, and the score of a use.
local function tick()
  clock = clock < now and now or clock + 1
  return clock
end

-- Tells what happened. The record's last use goes with it: whoever waits needs no other read.
local function announce(kind, by)
  events, told = events or {'', nil, nil}, told + 1
  local n = #events
  events[n + 1] = '\150' .. pack(kind, slot.entry, now, by or '', slot.used or 0)
  events[n + 2] = slot.text or pack({BLANK})
end

-- Store `record` for this item. `kind` names the event (nil: none goes out), `used` is the tick of a new
-- last use (nil: that stays), `by` the caller where the record does not name him.
local function save(kind, used, by)
  -- What says nothing at the end is left out, as an older layout would.
  local length = #record
  if length == KNOWN then
    while record[length] == '' or record[length] == 0 do length = length - 1 end
  end
  local begin = length < 16 and char(0x90 + length) or '\220\0' .. char(length)
  slot.record, slot.text = record, begin .. pack(unpack(record, 1, length))
  slot.is, slot.used = record[STATUS], used or slot.used
  slot.bytes = record[SIZE_BYTES] > 0 and record[SIZE_BYTES] or record[BYTES_TOTAL] -- known, else what is expected
  if kind then announce(kind, by) end
end

-- The record goes, and with it the key beside it.
local function remove(kind, by, beside)
  announce(kind, by)
  slot.record, slot.text, slot.is, slot.bytes = nil, nil, false, 0
  slot.beside, slot.heal = beside, true
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
  record[MAX_ATTEMPTS], record[RENEWAL] = 0, 0
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
  record[MAX_ATTEMPTS], record[RENEWAL] = 0, 0
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

--@section status

-- The status of the record in `stored`, and its index; neither if it is not one whole MessagePack array, or has no
-- status that is known. What else is in it is told by those who need it. In place, and without a table: whoever needs no
-- more of a record spends most of its time on these.
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

--@section numbers

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

--@section batch

-- The batch: judges every item in order, each seeing what those before it decided.

--@clock
-- The slots, in order and by key, and the replies: one item alone needs no tables for many.
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
    -- With room for what most have: a table that grows costs more.
    slot = {key = record_key, entry = sub(record_key, entry_at), text = nil, used = nil, record = nil}
    if slots then
      distinct = distinct + 1
      slots[distinct], slots[record_key] = slot, slot
    end
    stored = get('GET', record_key)
    if not stored then
      --@absent
    end
  end
  if not one then
    if not judge then
      --@records

      --@script
    end
    if stored then
      slot.record, slot.damaged = record_of(stored)
      record = slot.record
      if record then
        slot.text, slot.was = stored, record[STATUS]
        slot.was_bytes = record[SIZE_BYTES] > 0 and record[SIZE_BYTES] or record[BYTES_TOTAL]
      end
    else
      -- What was judged in place is only text.
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

-- What is to be written: each thing at once, the records last.

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
    -- One item that changes no sum, the commonest call.
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

--@numbers

local adds, values, stores, now_text = {}, {}, 0, text_of(now)
local rems, sums, gone -- few calls have any
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
      -- Read and stored rather than incremented: an increment fails on a value that somebody damaged.
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
