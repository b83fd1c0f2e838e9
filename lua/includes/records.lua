-- Reading a record.

-- Return the record in `text`, or nil and why it can't be read. Elements that an older layout lacks get their
-- defaults.
function record_of(text)
  if type(text) == 'table' then return nil, 'not a string' end
  local first, length, begin = string.byte(text) or 0, 0, 1
  if first >= 0x90 and first <= 0x9f then
    length = first - 0x90
  elseif first == 0xdc then
    length, begin = (string.byte(text, 2) or 0) * 256 + (string.byte(text, 3) or 0), 3
  else
    return nil, 'not a MessagePack array'
  end
  if length > 255 then return nil, 'too many elements' end
  -- Unpacked as values, not as one array: a table that is created at once costs less than one that grows.
  local read = {pcall(cmsgpack.unpack_limit, text, length, begin)}
  if not read[1] or read[2] ~= -1 then return nil, 'not one whole MessagePack value' end
  local record, type = {BLANK}, type
  for i = 1, length do
    local element, usual = read[i + 2], record[i]
    local kind = type(element)
    if usual == '' and kind ~= 'string' or usual == 0
        and (kind ~= 'number' or element < 0 or element >= 2 ^ 63 or element % 1 ~= 0) then
      return nil, 'element ' .. i .. ' is of a wrong type'
    end
    -- A nil among the elements of a newer layout would make cmsgpack pack the record as a map.
    if i > KNOWN and element == nil then return nil, 'element ' .. i .. ' is nil' end
    record[i] = element
  end
  local status = record[STATUS]
  if status ~= 'DOWNLOADING' and status ~= 'DOWNLOADED' and status ~= 'ERROR' and status ~= 'EVICTING' then
    return nil, 'its status is unknown'
  end
  return record
end
