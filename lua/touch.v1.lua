#!lua flags=allow-oom
-- touch: a model is in use.
--
-- Prelude: 1
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str
-- Item keys: record_key
-- Item args: none
-- Reply: ["known"], ["unknown"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: a later last use is as true
-- Event: none (a touch is the commonest call, and changes no record)
--
-- Row: DOWNLOADING, DOWNLOADED, ERROR | `last_used` bumped | known
-- Row: EVICTING; absent | unchanged | known; not known

function judge()
  if not record then return packed('unknown') end
  if record[STATUS] ~= 'EVICTING' then slot.used = tick() end
  return packed('known')
end
