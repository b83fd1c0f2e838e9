#!lua flags=allow-oom
-- touch: a model is in use.
--
-- Prelude: 1
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Item keys: record_key
-- Item args: none
-- Reply: ["known"], ["unknown"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: a later last use is as true
-- Event: none (a touch is the commonest call, and changes no record: it looks at nothing of that but its status)
--
-- Row: DOWNLOADING, DOWNLOADED, ERROR | `last_used` bumped | known
-- Row: EVICTING; absent | unchanged | known; not known

--@clock
-- One that is known is what most calls touch: for that alone nothing is made but texts.
local replies, reply = items > 1 and {'\220\0' .. char(items)}
local touched, one_index, one_tick, one_entry = 0
local lists -- of many, by index: ticks and entries
for item = 1, items do
  --@item
  local stored = redis.pcall('GET', record_key)
  if not stored then
    reply = '\145\167unknown'
  else
    --@status
    if not index then
      reply = '\146' .. pack('damaged', 'its status can not be read')
    else
      reply = '\145\165known'
      if status ~= 'EVICTING' then
        entry_at = entry_at or string.find(record_key, '}:model:', 1, true) + 8
        clock = clock < now and now or clock + 1 -- a tick
        touched = touched + 1
        local entry = sub(record_key, entry_at)
        if touched == 1 then
          one_index, one_tick, one_entry = index, clock, entry
        else
          lists = lists or {[one_index] = {one_tick, one_entry}}
          local list = lists[index]
          if list then
            local n = #list
            list[n + 1], list[n + 2] = clock, entry
          else
            lists[index] = {clock, entry}
          end
        end
      end
    end
  end
  if replies then replies[item + 1] = reply end
end

local format = string.format
if touched > 0 then
  local now_text = format('%.0f', now)
  local clock_text = clock == now and now_text or format('%.0f', clock)
  if lists then
    --@numbers
    for index, list in pairs(lists) do
      for i = 1, #list, 2 do list[i] = text_of(list[i]) end
      call('ZADD', index, unpack(list))
    end
  else
    call('ZADD', one_index, clock_text, one_entry)
  end
  call('HSET', meta, 'time', now_text, 'clock', clock_text)
end
if stepped_back then call('HSET', meta, 'time', format('%.0f', now), 'skew', format('%.0f', skew)) end
return replies and concat(replies) or '\145' .. reply
