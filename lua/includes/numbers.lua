-- Decimal text of many numbers.

-- Return an integer of 0 to 2^53 - 1 as decimal text. It is made in parts because %d may be limited to 32 bits and
-- %.0f takes several times as long. Numbers of a batch follow one another, so the upper part is kept for the next.
local high, high_text
local function text_of(number)
  local format = string.format
  if number < 10000000 then return format('%d', number) end
  local low = number % 100
  if number - low ~= high then
    high = number - low
    local middle = high % 10000000
    high_text = format('%d%05d', (high - middle) / 10000000, middle / 100)
  end
  return high_text .. char(48 + (low - low % 10) / 10, 48 + low % 10)
end
