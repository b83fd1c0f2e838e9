#!lua flags=allow-oom
-- delete: forget a model.
--
-- Template: transition
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting
-- Args: channel:str, by:word
-- Item keys: record_key, holds_key
-- Item args: token:int?, force:flag
-- (token: only the record that has it; not given: any)
-- Reply: ["deleted"], ["absent"], ["other", its token], ["evicting", lease left], ["held", by how many]
--        or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe with a token (its answer then means: it is not there any more); not safe without
-- Event: deleted, which names the caller
--
-- Row: by token: another token, or absent | unchanged | not deleted
-- Row: EVICTING with a live lease, or held, unless forced | unchanged | refused
-- Row: anything else | absent | deleted or not, per provider

--@when-undecided

local function deleted()
  remove('deleted', by, holds_key)
  return packed('deleted')
end

function judge()
  if not record then return packed('absent') end
  if token and record[TOKEN] ~= token then return packed('other', record[TOKEN]) end
  if not force then
    if record[STATUS] == 'EVICTING' and is_live() then return packed('evicting', lease_left()) end
    local holders = redis.pcall('ZCOUNT', holds_key, '(' .. string.format('%.0f', now), '+inf')
    if type(holders) == 'table' then return packed('damaged', 'its holders are not a sorted set') end
    if holders > 0 then return packed('held', holders) end
  end
  return deleted()
end

function judge_damaged()
  -- A record that can't be read goes by force alone; it shows no token to compare.
  if force and not token and slot.is ~= false then return deleted() end
  if slot.is == false then return packed('absent') end
  return packed('damaged', slot.damaged)
end
