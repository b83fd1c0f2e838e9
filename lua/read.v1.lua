#!lua flags=no-writes
-- read: records together with their last use.
--
-- Prelude: 1
-- Keys: index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Item keys: record_key
-- Item args: none
-- Reply: ["found", last use (0: not in the index), the record], ["absent"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none

local index = {
  DOWNLOADING = index_downloading, DOWNLOADED = index_downloaded, ERROR = index_error, EVICTING = index_evicting,
}

local replies = {}
for item = 1, items do
  bind(item)
  fetch(record_key)
  if slot.damaged then
    replies[item] = judge_damaged()
  elseif not record then
    replies[item] = packed('absent')
  else
    local used = call('ZSCORE', index[record[STATUS]], slot.entry)
    replies[item] = '\147' .. pack('found', whole_score(used)) .. slot.text
  end
end
return header(items) .. concat(replies)
