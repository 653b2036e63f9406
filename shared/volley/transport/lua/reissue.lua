-- Replace a task, or the failure that answered it, by another task for the same number.
--
-- after   fence.lua, incarnation.lua
-- ARGV    3 number  4 what outstanding[number] must still be  5 body of the next task
-- answer  1, or 0 when the number has moved on and nothing was done
-- repeat  harmless: the second time the number has moved on
local number, held, body = ARGV[3], ARGV[4], ARGV[5]
if redis.call('HGET', outstanding, number) ~= held then
  return 0
end
remove(held)
local task = redis.call('XADD', tasks, '*', 'n', number, 'body', body)
redis.call('HSET', outstanding, number, 't:' .. task)
return 1
