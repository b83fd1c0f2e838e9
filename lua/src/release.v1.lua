#!lua flags=allow-oom
-- release: the owner of a claim gives it back, unfinished, so that another can go on at once.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str
-- Item keys: record_key
-- Item args: claim_id:word, token:int
-- Reply: ["done"], ["again"] (it was done before), ["lost", status now ("" for no record)] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: the claim that ended last is remembered, and how
-- Event: released
--
-- Row: DOWNLOADING, same claim | DOWNLOADING without a claim, lease over, attempt not counted, progress kept | done
-- Row: that claim ended last, by release | unchanged | done again
-- Row: anything else | unchanged | lost

--@when-undecided

function judge()
  if is_mine('DOWNLOADING', claim_id, token) then
    record[CLAIM_ID], record[LEASE_END] = '', now
    record[ATTEMPTS] = math.max(record[ATTEMPTS] - 1, 0)
    record[ENDED_ID], record[ENDED_HOW] = claim_id, 3
    save('released')
    return packed('done')
  end
  if record and record[ENDED_ID] == claim_id and record[ENDED_HOW] == 3 then return packed('again') end
  return packed('lost', record and record[STATUS] or '')
end
