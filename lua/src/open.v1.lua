#!lua flags=allow-oom
-- open: is this server fit for the registry, and is it still the one that wrote last?
--
-- Runs before the first writing script of every new connection, and is loaded before any other script, so
-- that a server without scripts (restarted, failed over, flushed) is always opened first. Where the server
-- is another one, or was restarted, writes of its last second may be lost: the clock jumps ahead of every
-- tick that they can have held (60 s, and the time that has passed since the last write), so that no token
-- is given twice, however often that happens.
--
-- Template: plain
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting, any_record, any_holds, branches
-- Args: channel:str, schema:int
-- Reply: [run id, version, schema of the namespace, 0, what waiting needs and this user lacks ("": nothing)]
-- Errors: NOPERM what the user may not do; ERR unknown command; WRONGTYPE a shared key of another type; SCHEMATOONEW n
-- Re-send: safe: the second call finds the server's own id and changes nothing
-- Event: none

--@include rights

--@include clock

--@include server

if known[2] ~= server then
  local fields = {'schema', string.format('%.0f', found), 'server', server}
  if time > 0 then
    fields[#fields + 1] = 'clock'
    fields[#fields + 1] = string.format('%.0f', clock + 60000000 + now - time)
    -- Without this, a registry without writes would count the same hours again at its next restart.
    fields[#fields + 1] = 'time'
    fields[#fields + 1] = string.format('%.0f', now)
  end
  call('HSET', meta, unpack(fields))
end
if stepped_back then call('HSET', meta, 'time', string.format('%.0f', now), 'skew', string.format('%.0f', skew)) end
return pack({server, version, found, 0, lacking})
