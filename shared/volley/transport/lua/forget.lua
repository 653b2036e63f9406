-- Remove a worker that has left; while it holds leases its consumer stays, for they hang on it.
--
-- KEYS    1 tasks  2 workers  3 report:<worker>
-- ARGV    1 worker
-- answer  1
-- repeat  harmless
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
local pending = redis.pcall('XPENDING', KEYS[1], 'workers', '-', '+', 1, ARGV[1])
if not pending.err and #pending == 0 then -- err: there is no group, so no consumer either
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', ARGV[1])
end
return 1
