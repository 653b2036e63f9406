-- List the outstanding numbers and who holds their tasks.
--
-- after   fence.lua, incarnation.lua
-- answer  {number, pointer, number, pointer, ...}, {{task id, worker, idle ms, progress}, ...}
-- repeat  harmless: reads only
return {
  redis.call('HGETALL', outstanding),
  redis.call('XPENDING', tasks, 'workers', '-', '+', redis.call('XLEN', tasks)),
}
