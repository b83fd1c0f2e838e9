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

local replies = {header(items)}
for item = 1, items do
  bind(item)
  local text = redis.pcall('GET', record_key)
  if text then
    local record, why = record_of(text)
    if record then
      entry_at = entry_at or string.find(record_key, '}:model:', 1, true) + 8
      local used = call('ZSCORE', index[record[STATUS]], sub(record_key, entry_at))
      replies[item + 1] = '\147' .. pack('found', whole_score(used)) .. text
    else
      replies[item + 1] = packed('damaged', why)
    end
  else
    replies[item + 1] = packed('absent')
  end
end
return concat(replies)
