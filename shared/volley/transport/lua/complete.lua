-- Turn a task into its result, once.
--
-- KEYS    1 outstanding  2 tasks  3 results  4 deliveries
-- ARGV    1 number  2 task id  3 body
-- answer  1 when the result counts, 0 when the number no longer waits for this task
-- repeat  harmless: answers 1 again for as long as the result waits to be dropped
local number, task, body = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('HGET', KEYS[1], number)

-- Removed in any case: after lost writes a task can be here though its number has moved on.
-- It also comes first because a script that has freed something may go on at maxmemory.
redis.call('XACK', KEYS[2], 'workers', task)
redis.call('XDEL', KEYS[2], task)

if held == 't:' .. task then
  local result = redis.call('XADD', KEYS[3], '*', 'n', number, 'task', task, 'body', body)
  redis.call('HSET', KEYS[1], number, 'r:' .. result)
  return 1
end

if held and string.sub(held, 1, 2) == 'r:' then
  local id = string.sub(held, 3)
  local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
  if entry and entry[2][4] == task then
    return 1
  end
end
redis.call('HINCRBY', KEYS[4], 'duplicate', 1)
return 0
