-- Arguments: their largest integer, and the error of a wrong call.

local function refuse(why)
  error({err = 'ERR pyregistry: ' .. why}, 0)
end

-- Integers travel as decimal text; a double holds them exactly up to 2^53 - 1.
local MAX_INT = 9007199254740991
