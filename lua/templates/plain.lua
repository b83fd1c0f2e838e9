-- A script that judges no records. Its whole text is the hook `at-start`.

--@include arguments

--@bindings

local call, pack = redis.call, cmsgpack.pack

--@at-start
