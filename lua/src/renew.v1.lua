#!lua flags=allow-oom
-- renew: the owner of a claim lives, and says how far it is.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str
-- Item keys: record_key
-- Item args: claim_id:word, token:int, lease:int, says:flag, message:str, bytes_done:int?, bytes_total:int?, order:int
-- (lease in microseconds, 0: from now on it never ends; says 1: the message is `message`, "" for none; order: grows with
-- what the owner says, 0: not given)
-- Reply: ["renewed", lease end, lease left (-1: it never ends)]
--        or ["ended", how it ended: 1 DOWNLOADED, 2 ERROR, 3 released]
--        or ["lost", status now ("" for no record), the message of an ERROR]
--        or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe with a lease: it never shortens one; a claim that has ended meanwhile says so
-- Event: renewed, if it brought progress or a message
--
-- Row: DOWNLOADING, same claim, `order` not above that of the progress stored | lease extended (never shortened) | renewed, lease left (a late copy)
-- Row: DOWNLOADING, same claim | lease extended (never shortened), progress and its `order` stored | renewed, lease left
-- Row: that claim ended last, by finish or release | unchanged | ended by yourself (not lost)
-- Row: anything else | unchanged | lost

--@when-undecided

function judge()
  if is_mine('DOWNLOADING', claim_id, token) then
    extend(lease)
    local told = (says or bytes_done or bytes_total) and not (order > 0 and order <= record[RENEWAL])
    if told then
      if says then record[MESSAGE], record[BEGAN] = message, 0 end
      record[BYTES_DONE] = bytes_done or record[BYTES_DONE]
      record[BYTES_TOTAL] = bytes_total or record[BYTES_TOTAL]
      if order > 0 then record[RENEWAL] = order end
    end
    save(told and 'renewed')
    return packed('renewed', record[LEASE_END], lease_left())
  end
  if not record then return packed('lost', '', '') end
  if record[ENDED_ID] == claim_id and record[ENDED_HOW] ~= 4 then return packed('ended', record[ENDED_HOW]) end
  return packed('lost', record[STATUS], record[STATUS] == 'ERROR' and record[MESSAGE] or '')
end
