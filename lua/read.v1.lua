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

local replies, reply = items > 1 and {'\220\0' .. char(items)}
for item = 1, items do
  --@item
  local text = redis.pcall('GET', record_key)
  if text then
    local record, why = record_of(text)
    if record then
      entry_at = entry_at or string.find(record_key, '}:model:', 1, true) + 8
      local status = record[STATUS]
      local index = status == 'DOWNLOADING' and index_downloading or status == 'DOWNLOADED' and index_downloaded
        or status == 'ERROR' and index_error or index_evicting
      local used = call('ZSCORE', index, sub(record_key, entry_at))
      reply = '\147' .. pack('found', whole_score(used)) .. text
    else
      reply = packed('damaged', why)
    end
  else
    reply = packed('absent')
  end
  if replies then replies[item + 1] = reply end
end
return replies and concat(replies) or '\145' .. reply
