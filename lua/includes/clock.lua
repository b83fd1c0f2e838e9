-- Lease time and the last tick.

-- `now` is lease time in microseconds: the server's clock plus `skew`, which never goes back. `clock` is the last tick.
local stored_clock = call('HMGET', meta, 'time', 'skew', 'clock')
local time, skew = tonumber(stored_clock[1]) or 0, tonumber(stored_clock[2]) or 0
local last_clock = tonumber(stored_clock[3]) or 0
local clock, utc = last_clock, call('TIME')
local now = utc[1] * 1000000 + utc[2] + skew
local stepped_back = now < time
if stepped_back then
  skew = skew + time - now
  now = time
end
