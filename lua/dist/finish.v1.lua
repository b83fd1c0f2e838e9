#!lua flags=allow-oom
-- finish: the owner of a claim says how its download ended.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str
-- Item keys: record_key
-- Item args: claim_id:word, token:int, status:word, message:str, size_bytes:int, location:str, resolved_revision:str, retry_in:int, permanent:flag, max_attempts:int, cooldown:int
-- (size_bytes 0 and "": not known; of an error: retry_in in microseconds, the back-off; max_attempts 0: not given; cooldown
-- in microseconds, in the place of the back-off where the attempts are used up)
-- Reply: ["done"], ["again"] (it was done before), ["lost", status now ("" for no record)] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call, a status that is no end
-- Re-send: safe: the claim that ended last is remembered, and how
-- Event: downloaded or failed
--
-- Row: DOWNLOADING, same claim (its lease may be over, as long as nobody took over) | DOWNLOADED or ERROR | done
-- Row: that claim ended last, with this status, even if a later claim runs | unchanged | done again
-- Row: anything else | unchanged | lost
--
-- Composed by tools/build_lua from src/finish.v1.lua: change that file.

local function refuse(why)
  error({err = 'ERR pyregistry: ' .. why}, 0)
end

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991

local items = #KEYS - 5
if items < 1 or items > 64 or #ARGV ~= 1 + items * 11 then
  error({err = 'ERR pyregistry: finish.v1 takes 1 to 64 items, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local index_downloading = KEYS[2]
local index_downloaded = KEYS[3]
local index_error = KEYS[4]
local index_evicting = KEYS[5]
local channel = ARGV[1]
local record_key
local claim_id, token, status, message, size_bytes, location, resolved_revision, retry_in, permanent, max_attempts, cooldown
local last_token, last_size_bytes, last_retry_in, last_permanent, last_max_attempts, last_cooldown

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

-- The slots, in order and by key, and the replies. One item alone needs neither table.
local slots, distinct, replies, n = nil, 0, nil, 1
if items > 1 then slots, replies = {}, {'\220\0' .. char(items)} end
local get = redis.pcall
local one, two, three
for item = 1, items do
  record_key = KEYS[5 + item]
  local a = 1 + (item - 1) * 11
  claim_id = ARGV[a + 1]
  if claim_id == '' then
    error({err = 'ERR pyregistry: claim_id is empty'}, 0)
  end
  if ARGV[a + 2] ~= last_token then
    last_token = ARGV[a + 2]
    token = tonumber(last_token)
    if not token or token < 0 or token > MAX_INT or token % 1 ~= 0 then
      error({err = 'ERR pyregistry: token is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
  status = ARGV[a + 3]
  if status == '' then
    error({err = 'ERR pyregistry: status is empty'}, 0)
  end
  message = ARGV[a + 4]
  if ARGV[a + 5] ~= last_size_bytes then
    last_size_bytes = ARGV[a + 5]
    size_bytes = tonumber(last_size_bytes)
    if not size_bytes or size_bytes < 0 or size_bytes > MAX_INT or size_bytes % 1 ~= 0 then
      error({err = 'ERR pyregistry: size_bytes is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
  location = ARGV[a + 6]
  resolved_revision = ARGV[a + 7]
  if ARGV[a + 8] ~= last_retry_in then
    last_retry_in = ARGV[a + 8]
    retry_in = tonumber(last_retry_in)
    if not retry_in or retry_in < 0 or retry_in > MAX_INT or retry_in % 1 ~= 0 then
      error({err = 'ERR pyregistry: retry_in is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
  if ARGV[a + 9] ~= last_permanent then
    last_permanent = ARGV[a + 9]
    permanent = last_permanent == '1'
    if not permanent and last_permanent ~= '0' then
      error({err = 'ERR pyregistry: permanent is neither 0 nor 1'}, 0)
    end
  end
  if ARGV[a + 10] ~= last_max_attempts then
    last_max_attempts = ARGV[a + 10]
    max_attempts = tonumber(last_max_attempts)
    if not max_attempts or max_attempts < 0 or max_attempts > MAX_INT or max_attempts % 1 ~= 0 then
      error({err = 'ERR pyregistry: max_attempts is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
  if ARGV[a + 11] ~= last_cooldown then
    last_cooldown = ARGV[a + 11]
    cooldown = tonumber(last_cooldown)
    if not cooldown or cooldown < 0 or cooldown > MAX_INT or cooldown % 1 ~= 0 then
      error({err = 'ERR pyregistry: cooldown is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
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
  end
  if not one then
    if not judge then
      -- Return the record in `text`, or nil and why it can't be read. Elements that an older layout lacks get their
      -- defaults.
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
        -- Unpacked as values, not as one array: a table that is created at once costs less than one that grows.
        local read = {pcall(cmsgpack.unpack_limit, text, length, begin)}
        if not read[1] or read[2] ~= -1 then return nil, 'not one whole MessagePack value' end
        local record, type = {'', 0, 0, '', '', 0, 0, 0, '', 0, 0, '', '', 0, 0, '', 0, 0, '', 0, 0, 0}, type
        for i = 1, length do
          local element, usual = read[i + 2], record[i]
          local kind = type(element)
          if usual == '' and kind ~= 'string' or usual == 0
              and (kind ~= 'number' or element < 0 or element >= 2 ^ 63 or element % 1 ~= 0) then
            return nil, 'element ' .. i .. ' is of a wrong type'
          end
          -- A nil among the elements of a newer layout would make cmsgpack pack the record as a map.
          if i > 22 and element == nil then return nil, 'element ' .. i .. ' is nil' end
          record[i] = element
        end
        local status = record[--[[STATUS]] 1]
        if status ~= 'DOWNLOADING' and status ~= 'DOWNLOADED' and status ~= 'ERROR' and status ~= 'EVICTING' then
          return nil, 'its status is unknown'
        end
        return record
      end

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
        events[n + 2] = slot.text or pack({'', 0, 0, '', '', 0, 0, 0, '', 0, 0, '', '', 0, 0, '', 0, 0, '', 0, 0, 0})
      end

      -- Store `record` for this item. `kind` is the kind of the event (nil: no event), `used` the tick of a new last
      -- use (nil: unchanged), `by` the caller where the record does not name it.
      local function save(kind, used, by)
        -- Trailing elements that hold their defaults are left out, as an older layout leaves them out.
        local length = #record
        if length == 22 then
          while record[length] == '' or record[length] == 0 do length = length - 1 end
        end
        local begin = length < 16 and char(0x90 + length) or '\220\0' .. char(length)
        slot.record, slot.text = record, begin .. pack(unpack(record, 1, length))
        slot.is, slot.used = record[--[[STATUS]] 1], used or slot.used
        -- The size, or else the expected size.
        slot.bytes = record[--[[SIZE_BYTES]] 11] > 0 and record[--[[SIZE_BYTES]] 11] or record[--[[BYTES_TOTAL]] 15]
        if kind then announce(kind, by) end
      end

      -- Return whether the caller's claim holds this record. Its lease may be over, as long as no other claim took
      -- over.
      local function is_mine(status, claim_id, token)
        return record and record[--[[STATUS]] 1] == status and record[--[[CLAIM_ID]] 5] == claim_id and record[--[[TOKEN]] 8] == token
      end

      local function no_claim()
        record[--[[CLAIM_ID]] 5], record[--[[LEASE_END]] 6] = '', 0
        record[--[[BYTES_DONE]] 14], record[--[[BYTES_TOTAL]] 15] = 0, 0
        record[--[[PREVIOUS_OWNER]] 19], record[--[[PREVIOUS_BYTES_DONE]] 20] = '', 0
        record[--[[BEGAN]] 7], record[--[[RETRY_AT]] 17], record[--[[PERMANENT]] 18] = 0, 0, 0
        record[--[[MAX_ATTEMPTS]] 21], record[--[[RENEWAL]] 22] = 0, 0
      end

      function judge()
        local how = status == 'DOWNLOADED' and 1 or status == 'ERROR' and 2 or refuse('status is neither DOWNLOADED nor ERROR')
        if is_mine('DOWNLOADING', claim_id, token) then
          no_claim()
          record[--[[STATUS]] 1], record[--[[MESSAGE]] 13] = status, message
          record[--[[ENDED_ID]] 9], record[--[[ENDED_HOW]] 10] = claim_id, how
          if how == 1 then
            record[--[[LEASE_END]] 6] = now -- when the files were there: whoever does not see them yet may look again
            record[--[[SIZE_BYTES]] 11], record[--[[LOCATION]] 12], record[--[[RESOLVED_REVISION]] 16] = size_bytes, location, resolved_revision
          else
            record[--[[LEASE_END]] 6], record[--[[MAX_ATTEMPTS]] 21] = now, max_attempts
            local wait = max_attempts > 0 and record[--[[ATTEMPTS]] 3] >= max_attempts and cooldown or retry_in
            record[--[[RETRY_AT]] 17] = wait > 0 and now + wait or 0
            record[--[[PERMANENT]] 18] = permanent and 1 or 0
          end
          save(how == 1 and 'downloaded' or 'failed', tick())
          return packed('done')
        end
        if record and record[--[[ENDED_ID]] 9] == claim_id and record[--[[ENDED_HOW]] 10] == how then return packed('again') end
        return packed('lost', record and record[--[[STATUS]] 1] or '')
      end
    end
    if stored then
      slot.record, slot.damaged = record_of(stored)
      record = slot.record
      if record then
        slot.text, slot.was = stored, record[--[[STATUS]] 1]
        slot.was_bytes = record[--[[SIZE_BYTES]] 11] > 0 and record[--[[SIZE_BYTES]] 11] or record[--[[BYTES_TOTAL]] 15]
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
