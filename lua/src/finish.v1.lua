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

--@when-undecided

function judge()
  local how = status == 'DOWNLOADED' and 1 or status == 'ERROR' and 2 or refuse('status is neither DOWNLOADED nor ERROR')
  if is_mine('DOWNLOADING', claim_id, token) then
    no_claim()
    record[STATUS], record[MESSAGE] = status, message
    record[ENDED_ID], record[ENDED_HOW] = claim_id, how
    if how == 1 then
      record[LEASE_END] = now -- when the files were there: whoever does not see them yet may look again
      record[SIZE_BYTES], record[LOCATION], record[RESOLVED_REVISION] = size_bytes, location, resolved_revision
    else
      record[LEASE_END], record[MAX_ATTEMPTS] = now, max_attempts
      local wait = max_attempts > 0 and record[ATTEMPTS] >= max_attempts and cooldown or retry_in
      record[RETRY_AT] = wait > 0 and now + wait or 0
      record[PERMANENT] = permanent and 1 or 0
    end
    save(how == 1 and 'downloaded' or 'failed', tick())
    return packed('done')
  end
  if record and record[ENDED_ID] == claim_id and record[ENDED_HOW] == how then return packed('again') end
  return packed('lost', record and record[STATUS] or '')
end
