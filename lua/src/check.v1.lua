#!lua flags=no-writes
-- check: is this server fit for the registry, as far as that shows without a write?
--
-- Runs where `open` is refused for now (too few replicas, no persistence, a read-only replica), and then the scripts
-- that only read are loaded, and no others: reads go on, and `open` is still due before the first write.
--
-- Template: plain
-- Keys: meta, index_downloading, index_downloaded, index_error, index_evicting, any_record, any_holds, branches
-- Args: channel:str, schema:int
-- Reply: [run id, version, schema of the namespace, 1: `open` is due, what waiting needs and this user lacks ("": nothing)]
-- Errors: NOPERM what the user may not do; ERR unknown command; WRONGTYPE a shared key of another type; SCHEMATOONEW n
-- Re-send: safe: it writes nothing
-- Event: none

--@include rights

--@include server

return pack({server, version, found, 1, lacking})
