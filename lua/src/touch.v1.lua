#!lua flags=allow-oom
-- touch: a model is in use.
--
-- Template: lookup
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Item keys: record_key
-- Item args: none
-- Reply: ["known"], ["unknown"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: a later last use is as true
-- Event: none (a touch changes no record, and reads only its status)
--
-- Row: DOWNLOADING, DOWNLOADED, ERROR | `last_used` bumped | known
-- Row: EVICTING; absent | unchanged | known; not known

--@at-start

--@include clock

-- Most calls touch one model: its index, tick and entry need no tables.
local touched, one_index, one_tick, one_entry = 0
local lists -- by index: ticks and entries of several models

--@when-absent

reply = '\145\167unknown'

--@when-present

reply = '\145\165known'
if status ~= 'EVICTING' then
  clock = clock < now and now or clock + 1 -- a tick
  touched = touched + 1
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

--@at-end

local format = string.format
if touched > 0 then
  local now_text = format('%.0f', now)
  local clock_text = clock == now and now_text or format('%.0f', clock)
  if lists then
    --@include numbers
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
