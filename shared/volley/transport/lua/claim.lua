-- Begin an epoch above all others of this run; whoever acts under an older one is fenced.
--
-- KEYS    1 epoch
-- ARGV    1 the highest epoch that the learner's disk knows of
-- answer  the epoch
-- repeat  harmless: an epoch that nobody uses is skipped
local highest = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1]))
redis.call('SET', KEYS[1], highest + 1)
return highest + 1
