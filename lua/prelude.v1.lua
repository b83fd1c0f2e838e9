-- prelude 1: arguments, lease time, records, and the bookkeeping of a batch.
--
-- The loader puts this text in front of a script's own, and replaces the line `--@bindings` by what it
-- reads in that script's header: a local for each shared key and argument, `bind(item)`, which sets one
-- local for each key and argument of an item, the positions of a record's elements (STATUS, TOKEN, ...),
-- and BLANK, a record in which nothing is said yet.
--
-- A script says how to judge an item (`batch`) and what becomes of its record (`save`, `use`, `remove`).
-- Every item is judged before anything is written; nothing can fail after the first write, but for what
-- the `open` script has checked.

local function refuse(why)
  error({err = 'ERR pyregistry: ' .. why}, 0)
end

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

local function int(text, name)
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

local function word(text, name)
  if text == '' then refuse(name .. ' is empty') end
  return text
end

-- How many items this call brings. A wrong call is refused before anything is read.
local function count_items(script, shared_keys, shared_args, item_keys, item_args)
  local items = item_keys > 0 and (#KEYS - shared_keys) / item_keys or 0
  if items % 1 ~= 0 or items < (item_keys > 0 and 1 or 0) or items > 64
      or #KEYS ~= shared_keys + items * item_keys or #ARGV ~= shared_args + items * item_args then
    refuse(script .. ' takes 1 to 64 items, not ' .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments')
  end
  return items
end

--@bindings

local call, pack = redis.call, cmsgpack.pack
local byte, char, sub, concat = string.byte, string.char, string.sub, table.concat

local function text_of(number)
  return string.format('%.0f', number)
end

-- A score as the whole number that a tick is, whatever somebody may have set by hand.
local function whole_score(text)
  return math.floor(math.max(0, math.min(tonumber(text) or 0, MAX_INT)))
end

-- A MessagePack array of up to 64 values that are packed already.
local function array(packed)
  local n = #packed
  return (n < 16 and char(0x90 + n) or '\220\0' .. char(n)) .. concat(packed)
end

-- Lease time (microseconds): the server's clock, but it never goes back. `clock` is the last tick.

local now, time, skew, clock, stepped_back, ticked

local function read_clock()
  local stored = call('HMGET', meta, 'time', 'skew', 'clock')
  time, skew, clock = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
  local utc = call('TIME')
  now = utc[1] * 1000000 + utc[2] + skew
  stepped_back = now < time
  if stepped_back then
    skew = skew + time - now
    now = time
  end
end

-- A number that only grows: the token of whoever gets one, and the score of a use.
local function tick()
  clock = math.max(now, clock + 1)
  ticked = true
  return clock
end

-- Records

local function blank()
  return {unpack(BLANK)}
end

-- The record in `text`, or nil and why it can't be read.
local function record_of(text)
  local first = byte(text) or 0
  if not (first >= 0x90 and first <= 0x9f or first == 0xdc) then
    return nil, 'not a MessagePack array'
  end
  local whole, rest, record = pcall(cmsgpack.unpack_one, text)
  if not whole or rest ~= -1 then return nil, 'not one whole MessagePack value' end
  -- Not `#record`: that stops anywhere if an element is nil.
  local length = first == 0xdc and byte(text, 2) * 256 + byte(text, 3) or first - 0x90
  if length > 255 then return nil, 'too many elements' end
  for i = length + 1, #BLANK do record[i] = BLANK[i] end
  for i = 1, math.min(length, #BLANK) do
    local element = record[i]
    if type(element) ~= type(BLANK[i])
        or (type(element) == 'number' and (element < 0 or element >= 2 ^ 63 or element % 1 ~= 0)) then
      return nil, 'element ' .. i .. ' is of a wrong type'
    end
  end
  -- With a hole among the elements of a newer layout the record would be packed as a map.
  for i = #BLANK + 1, length do
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

-- The item in hand: its record as the items before it left it (nil: there is none), and its slot, in
-- which the batch remembers what was there and what shall be.
local slots, changed, events = {}, {}, {}
local slot, record

local function fetch(key)
  slot = slots[key]
  if not slot then
    slot = {key = key, entry = sub(key, string.find(key, '}:model:', 1, true) + 8)}
    slots[key] = slot
    local text = redis.pcall('GET', key)
    if type(text) == 'table' then
      slot.damaged = 'not a string'
    elseif text then
      slot.record, slot.damaged = record_of(text)
      if slot.record then
        slot.text, slot.was, slot.was_bytes = text, slot.record[STATUS], bytes_of(slot.record)
      end
    end
  end
  record = slot.record
end

local function change()
  if not slot.changed then
    slot.changed = true
    changed[#changed + 1] = slot
  end
end

-- Tells what happened. The record's last use goes with it: whoever waits needs no other read.
local function announce(kind, by)
  local said = pack(kind, slot.entry, now, by or '', slot.used or 0)
  events[#events + 1] = '\150' .. said .. (slot.text or pack(BLANK))
end

-- Store `record` for this item. `kind` names the event (nil: none goes out), `used` is the tick of a new
-- last use (nil: that stays), `by` the caller where the record does not name him.
local function save(kind, used, by)
  change()
  -- What says nothing at the end is left out, as an older layout would.
  local length = #record
  while record[length] == BLANK[length] do length = length - 1 end
  slot.record, slot.text = record, pack({unpack(record, 1, length)})
  slot.stored, slot.used = true, used or slot.used
  if kind then announce(kind, by) end
end

-- A new last use, nothing else.
local function use()
  change()
  slot.used = tick()
end

-- The record goes, and with it the key beside it.
local function remove(kind, by, beside)
  change()
  announce(kind, by)
  slot.record, slot.text, slot.removed, slot.beside, slot.heal = nil, nil, true, beside, true
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
  return pack({
    kind, record[TOKEN], record[LEASE_END], lease_left(), record[ATTEMPTS],
    record[PREVIOUS_OWNER], record[PREVIOUS_BYTES_DONE],
  })
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

-- Batches

local function write()
  if #changed == 0 then
    if stepped_back then call('HSET', meta, 'time', text_of(time), 'skew', text_of(skew)) end
    return
  end
  local index = {
    DOWNLOADING = index_downloading, DOWNLOADED = index_downloaded, ERROR = index_error, EVICTING = index_evicting,
  }
  local adds, rems, sums, summed, values, gone = {}, {}, {}, {}, {}, {}
  local function append(list, one, two)
    list[#list + 1] = one
    list[#list + 1] = two
  end
  local function list_in(lists, key)
    lists[key] = lists[key] or {}
    return lists[key]
  end
  local function sum(status, bytes)
    if not sums[status] then
      sums[status] = 0
      summed[#summed + 1] = 'bytes:' .. status
    end
    sums[status] = sums[status] + bytes
  end
  for _, it in ipairs(changed) do
    local is = it.record and it.record[STATUS]
    local is_bytes = it.record and bytes_of(it.record) or 0
    if it.used then append(list_in(adds, index[is]), text_of(it.used), it.entry) end
    if it.heal then
      for status, key in pairs(index) do
        if status ~= is then append(list_in(rems, key), it.entry) end
      end
    elseif it.was and it.was ~= is then
      append(list_in(rems, index[it.was]), it.entry)
    end
    if it.was ~= is or it.was_bytes ~= is_bytes then
      if it.was and it.was_bytes > 0 then sum(it.was, -it.was_bytes) end
      if is_bytes > 0 then sum(is, is_bytes) end
    end
    if it.stored then
      append(values, it.key, it.text)
    elseif it.removed then
      append(gone, it.key, it.beside)
    end
  end
  local fields = {'time', text_of(now)}
  if ticked then append(fields, 'clock', text_of(clock)) end
  if stepped_back then append(fields, 'skew', text_of(skew)) end
  if #summed > 0 then
    -- Read and stored rather than incremented: an increment fails on a value that somebody damaged.
    for i, old in ipairs(call('HMGET', meta, unpack(summed))) do
      local status = sub(summed[i], 7)
      append(fields, summed[i], text_of(math.max((tonumber(old) or 0) + sums[status], 0)))
    end
  end
  if #events > 0 then call('SPUBLISH', channel, array(events)) end
  for key, list in pairs(rems) do call('ZREM', key, unpack(list)) end
  for key, list in pairs(adds) do call('ZADD', key, unpack(list)) end
  call('HSET', meta, unpack(fields))
  if #values > 0 then call('MSET', unpack(values)) end
  if #gone > 0 then call('DEL', unpack(gone)) end
end

-- Judges every item in order, each seeing what those before it decided, then writes. `judge` gives the
-- item's packed reply; so does `judge_damaged`, if given, for a record that can't be read.
local function batch(judge, judge_damaged)
  if WRITES then read_clock() end
  local replies = {}
  for item = 1, items do
    bind(item)
    fetch(record_key)
    if slot.damaged then
      replies[item] = judge_damaged and judge_damaged() or pack({'damaged', slot.damaged})
    else
      replies[item] = judge()
    end
  end
  if WRITES then write() end
  return array(replies)
end
