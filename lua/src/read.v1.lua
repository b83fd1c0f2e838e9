#!lua flags=no-writes
-- read: records together with their last use.
--
-- Template: lookup
-- Keys: index_downloading, index_downloaded, index_error, index_evicting
-- Args: none
-- Item keys: record_key
-- Item args: none
-- Reply: ["found", last use (0: not in the index), the record], ["absent"] or ["damaged", why]
-- Errors: ERR pyregistry: a wrong call
-- Re-send: safe: it writes nothing
-- Event: none

--@when-absent

reply = '\145\166absent'

--@when-present

local used = call('ZSCORE', index, entry)
reply = '\147\165found' .. pack(whole_score(used)) .. stored
