#!lua flags=allow-oom
-- cancel: end a download that any client owns.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str, by:word
-- Item keys: record_key
-- Item args: token:int?, message:str, retry_in:int, permanent:flag
-- (token: only the download that has it; not given: any; retry_in in microseconds: nobody tries again before)
-- Reply: ["done", its owner ("" for none), its token], ["again"] (it was done before), ["other", its token],
--        ["refused", status now ("" for no record)]
--        or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe with a token: the claim that ended last is remembered, and how; not safe without
-- Event: cancelled, which names the caller
--
-- Row: by token: another token | unchanged | not cancelled
-- Row: DOWNLOADING, lease over or not | ERROR, the attempts are used up; permanent, or a cool-down of `retry_in` | done: whose it was
-- Row: by token: ERROR, and the claim that ended last was cancelled | unchanged | done again
-- Row: anything else | unchanged | refused

--@when-undecided

function judge()
  if not record then return packed('refused', '') end
  if token and record[TOKEN] ~= token then return packed('other', record[TOKEN]) end
  if record[STATUS] ~= 'DOWNLOADING' then
    if token and record[STATUS] == 'ERROR' and record[ENDED_HOW] == 4 then return packed('again') end
    return packed('refused', record[STATUS])
  end
  local owner = record[CLAIM_ID] ~= '' and record[OWNER] or ''
  if record[CLAIM_ID] ~= '' then record[ENDED_ID], record[ENDED_HOW] = record[CLAIM_ID], 4 end
  no_claim()
  record[STATUS], record[MESSAGE], record[LEASE_END] = 'ERROR', message, now
  record[ATTEMPTS] = math.max(record[ATTEMPTS], 1)
  record[MAX_ATTEMPTS] = record[ATTEMPTS]
  record[RETRY_AT] = permanent and 0 or now + retry_in
  record[PERMANENT] = permanent and 1 or 0
  save('cancelled', tick(), by)
  return packed('done', owner, record[TOKEN])
end
