#!lua
-- claim: the right to download a model, for one caller.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str, owner:word, lease:int, max_attempts:int, cooldown:int
-- Item keys: record_key
-- Item args: claim_id:word, expected_bytes:int
-- (lease in microseconds, 0: it never ends; max_attempts and expected_bytes 0: not given; cooldown in microseconds, 0: none)
-- Reply: ["claimed" or "again", token, lease end, lease left, attempts, previous owner, how far it got]
--        or ["exists", status, lease end, lease left] (left -1: a claim that never ends)
--        or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: the claim id finds its own claim, or its own end
-- Event: claimed, taken_over, or abandoned (the attempts are used up)
--
-- Row: the claim that ended last has this `claim_id` | unchanged | AlreadyExists(status); not won (a late copy)
-- Row: absent | DOWNLOADING, `attempts` 1 | Claimed
-- Row: DOWNLOADING, same `claim_id`, lease over or not | lease ends at the later of its end and now + lease (None stays) | Claimed again, same token (a re-sent request)
-- Row: DOWNLOADING, lease over or released, `attempts` >= `max_attempts` (if given) | ERROR, `Owner lost ...`, the attempts are used up: with a cool-down, or permanent without one | AlreadyExists(ERROR)
-- Row: DOWNLOADING, lease over or released | DOWNLOADING, new claim, `attempts`+1 | Claimed: taken over, from whom, how far it had got
-- Row: DOWNLOADING, live lease or none | unchanged | AlreadyExists(DOWNLOADING), lease left
-- Row: EVICTING, lease over | DOWNLOADING, new claim, `attempts` 1 | Claimed: taken over
-- Row: DOWNLOADED, ERROR, EVICTING | unchanged | AlreadyExists(status)

--@at-start

-- The first claim of a model is the most frequent claim. `when-absent` decides it without the functions for records: it
-- concatenates the packed record, which saves 18 to 44 % of such a claim's server time (Redis 7.0). The strings that
-- all items share are packed once. Each string is as short as possible, because Lua hashes every new string. Some
-- servers hash only part of a long string, its last byte included, so the long strings end with the token.
local first_begin, first_end, first_at, first_reply

-- Return what a MessagePack string of `n` bytes begins with.
local function string_header(n)
  return n < 32 and char(0xa0 + n) or n < 256 and char(0xd9, n) or char(0xda, (n - n % 256) / 256, n % 256)
end

--@when-absent

if expected_bytes == 0 then
  clock = clock < now and now or clock + 1 -- a tick
  local token, entry = pack(clock), slot.entry
  if not first_begin then
    local at, ends = pack(now), pack(lease == 0 and 0 or now + lease)
    first_begin = '\152\171DOWNLOADING' .. at .. '\1' .. pack(owner)
    first_end, first_at = ends .. '\1', at .. '\160'
    first_reply = ends .. pack(lease == 0 and -1 or lease, 1, '', 0)
  end
  -- STATUS, CREATED_AT, ATTEMPTS, OWNER, CLAIM_ID, LEASE_END, BEGAN, TOKEN
  local text = first_begin .. string_header(#claim_id) .. claim_id .. first_end .. token
  slot.text, slot.is, slot.used = text, 'DOWNLOADING', clock
  events, told = events or {'', nil, nil, nil, nil, nil, nil}, told + 1
  local n = #events
  events[n + 1], events[n + 2], events[n + 3] = '\150\167claimed', string_header(#entry), entry
  events[n + 4], events[n + 5], events[n + 6] = first_at, token, text
  one, two, three = '\151\167claimed', token, first_reply
end

--@when-undecided

local function exists()
  local status = record[STATUS]
  local leased = status == 'DOWNLOADING' or status == 'EVICTING'
  return packed('exists', status, leased and record[LEASE_END] or 0, leased and lease_left() or 0)
end

local function give(kind, attempts)
  if expected_bytes > 0 then record[BYTES_TOTAL] = expected_bytes end
  return give_claim(kind, 1, claim_id, owner, lease, attempts)
end

local function take_over(attempts)
  record[PREVIOUS_OWNER], record[PREVIOUS_BYTES_DONE] = record[OWNER], record[BYTES_DONE]
  return give('taken_over', attempts)
end

function judge()
  if not record then
    record = {BLANK}
    record[CREATED_AT] = now
    return give('claimed', 1)
  end
  if record[ENDED_ID] == claim_id then return exists() end
  local status = record[STATUS]
  if status == 'DOWNLOADING' then
    if record[CLAIM_ID] == claim_id then return same_claim(lease) end
    if is_live() then return exists() end
    if max_attempts > 0 and record[ATTEMPTS] >= max_attempts then
      no_claim()
      record[STATUS], record[LEASE_END], record[MAX_ATTEMPTS] = 'ERROR', now, max_attempts
      if cooldown > 0 then record[RETRY_AT] = now + cooldown else record[PERMANENT] = 1 end
      record[MESSAGE] = 'Owner lost at attempt ' .. record[ATTEMPTS] .. ': ' .. record[OWNER]
      save('abandoned', tick())
      return exists()
    end
    return take_over(record[ATTEMPTS] + 1)
  end
  if status == 'EVICTING' and not is_live() then return take_over(1) end
  return exists()
end
