#!lua
-- retry: the right to download a model again that ended in an error, for one caller.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str, owner:word, lease:int, max_attempts:int
-- Item keys: record_key
-- Item args: claim_id:word
-- (lease in microseconds, 0: it never ends; max_attempts 0: not given)
-- Reply: ["claimed" or "again", token, lease end, lease left, attempts, previous owner, how far it got]
--        or ["refused", status ("" for no record), attempts, permanent, back-off left]
--        or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: the claim id finds its own claim, or its own end
-- Event: retried
--
-- Row: the claim that ended last has this `claim_id` | unchanged | AlreadyExists(status); not won (a late copy)
-- Row: DOWNLOADING, same `claim_id`, lease over or not | lease ends at the later of its end and now + lease (None stays) | Claimed again, same token (a re-sent request)
-- Row: ERROR, not permanent, its attempts are used up, cool-down over | DOWNLOADING, new claim, `attempts` 1 | Claimed
-- Row: ERROR, not permanent, back-off over, `attempts` < `max_attempts` (if given) | DOWNLOADING, new claim, `attempts`+1 | Claimed
-- Row: anything else | unchanged | not won

--@when-undecided

function judge()
  if not record then return packed('refused', '', 0, 0, 0) end
  local status, ended = record[STATUS], record[ENDED_ID] == claim_id
  if not ended and status == 'DOWNLOADING' and record[CLAIM_ID] == claim_id then return same_claim(lease) end
  local attempts = record[ATTEMPTS]
  -- After a cool-down they are counted anew, whatever the caller allows.
  local anew = record[RETRY_AT] > 0 and record[MAX_ATTEMPTS] > 0 and attempts >= record[MAX_ATTEMPTS]
  if ended or status ~= 'ERROR' or record[PERMANENT] == 1 or record[RETRY_AT] > now
      or (not anew and max_attempts > 0 and attempts >= max_attempts) then
    return packed('refused', status, attempts, record[PERMANENT], math.max(record[RETRY_AT] - now, 0))
  end
  return give_claim('retried', 2, claim_id, owner, lease, anew and 1 or attempts + 1)
end
