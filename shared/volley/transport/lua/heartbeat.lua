-- Renew a worker's leases with its progress, and tell which it still has.
--
-- KEYS    1 tasks
-- ARGV    1 worker  2... task id, progress, task id, progress, ...
-- answer  the task ids that are still this worker's
-- repeat  harmless
--
-- Progress is kept as the delivery count of the pending entry: setting it needs no memory, so
-- leases live on at maxmemory. XPENDING first, because XCLAIM would also take a task from others.
local mine = {}
for i = 2, #ARGV, 2 do
  local task, progress = ARGV[i], ARGV[i + 1]
  local pending = redis.pcall('XPENDING', KEYS[1], 'workers', task, task, 1, ARGV[1])
  if not pending.err and #pending == 1 then -- err: the group is gone, and with it every lease
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, task, 'RETRYCOUNT', progress, 'JUSTID')
    mine[#mine + 1] = task
  end
end
return mine
