-- The server's id and version, and the schema of the namespace.

local known = call('HMGET', meta, 'schema', 'server')
local found = tonumber(known[1]) or schema
if found > schema then error({err = 'SCHEMATOONEW ' .. string.format('%.0f', found)}, 0) end

local info = call('INFO', 'server')
local server = string.match(info, 'run_id:(%x+)')
local version = string.match(info, 'valkey_version:(%S+)')
version = version and 'valkey ' .. version or 'redis ' .. string.match(info, 'redis_version:(%S+)')
