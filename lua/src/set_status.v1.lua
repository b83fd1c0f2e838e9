#!lua
-- set_status: somebody says what is true of a model, whoever owns its download.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str, by:word
-- Item keys: record_key
-- Item args: status:word, message:str, retry_in:int, permanent:flag, size_bytes:int, location:str
-- (retry_in, in microseconds, and permanent: of an ERROR; size_bytes and location: of a DOWNLOADED; 0 and "": as before)
-- Reply: ["done", the owner of the live claim that this ended ("" for none), its claim id, its token]
--        or ["refused", status now ("" for no record)]
--        or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call, an unknown status
-- Re-send: not safe: it could undo what others did in between
-- Event: set, which names the caller
--
-- Row: EVICTING with a live lease; or to EVICTING | unchanged | refused
-- Row: DOWNLOADING, to DOWNLOADING | message changed; claim, lease, token stay | done
-- Row: anything else | that status, and what is said of it; claim, lease, back-off, permanence cleared, `attempts` 0, a new token; how the last claim ended stays | done

--@when-undecided

function judge()
  if status ~= 'DOWNLOADING' and status ~= 'DOWNLOADED' and status ~= 'ERROR' and status ~= 'EVICTING' then
    refuse('status is unknown')
  end
  if status == 'EVICTING' or (record and record[STATUS] == 'EVICTING' and is_live()) then
    return packed('refused', record and record[STATUS] or '')
  end
  slot.heal = true
  if record and record[STATUS] == 'DOWNLOADING' and status == 'DOWNLOADING' then
    record[MESSAGE], record[BEGAN] = message, 0
    save('set', tick(), by)
    return packed('done', '', '', 0)
  end
  local owner, claim_id, token = '', '', 0 -- of the claim that this ends
  if not record then
    record = {BLANK}
    record[CREATED_AT] = now
  elseif record[STATUS] == 'DOWNLOADING' and record[CLAIM_ID] ~= '' and is_live() then
    owner, claim_id, token = record[OWNER], record[CLAIM_ID], record[TOKEN]
  end
  no_claim()
  record[STATUS], record[TOKEN], record[MESSAGE] = status, tick(), message
  record[OWNER], record[ATTEMPTS] = '', 0
  if status == 'DOWNLOADED' or status == 'ERROR' then record[LEASE_END] = now end
  if status == 'DOWNLOADED' then
    if size_bytes > 0 then record[SIZE_BYTES] = size_bytes end
    if location ~= '' then record[LOCATION] = location end
  elseif status == 'ERROR' then
    record[RETRY_AT] = retry_in > 0 and now + retry_in or 0
    record[PERMANENT] = permanent and 1 or 0
  end
  save('set', record[TOKEN], by)
  return packed('done', owner, claim_id, token)
end
