-- Scores of the sorted sets.

-- Return a score as the integer that a tick is, even if it was edited by hand.
local function whole_score(text)
  return math.floor(math.max(0, math.min(tonumber(text) or 0, MAX_INT)))
end
