-- Claims and their leases.

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

-- Return whether the caller's claim holds this record. Its lease may be over, as long as no other claim took
-- over.
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

-- Give a new claim of this record. `began` is 1 for a claim, 2 for a retry.
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

-- Answer a request that was sent again and meets its own claim.
local function same_claim(lease)
  extend(lease)
  save()
  return claim_reply('again')
end
